"""The web page for model owners and on-call, and the JSON API of the same actions."""
