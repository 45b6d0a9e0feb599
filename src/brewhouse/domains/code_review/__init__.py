"""Patches and their reviewers: who reads, acknowledges or tests whose work."""
