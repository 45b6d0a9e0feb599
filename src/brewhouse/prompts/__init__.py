"""Prompts: how a member's past and a question about an item become text and tokens."""
