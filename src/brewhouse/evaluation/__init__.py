"""Judging: metrics with uncertainty, slices, checks, typed results and the report."""
