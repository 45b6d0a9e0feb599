"""Scoring: log-odds of answers from the logits of answer words."""
