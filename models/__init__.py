"""Models that come with the project."""
