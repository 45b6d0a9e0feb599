"""The steps of the pipeline, without KFP: files in, files out. Components call these."""
