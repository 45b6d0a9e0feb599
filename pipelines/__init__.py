"""KFP pipelines, one folder each, with the compiled YAML beside the source."""
