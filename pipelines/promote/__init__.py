"""See pipeline.py."""
