"""Members of Congress and roll calls: who votes yea or nay at what."""
