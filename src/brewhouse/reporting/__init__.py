"""Pages for people: what an evaluation found, and what the gate made of it."""
