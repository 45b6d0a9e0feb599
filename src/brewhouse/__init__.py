"""Brewhouse: train, judge, release and watch one foundation ranking model."""

__version__ = "0.1.0"
