"""Conventional models trained in the same run on the same rows, standing in for production."""
