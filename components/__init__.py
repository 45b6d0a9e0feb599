"""KFP components: thin wrappers, one folder each, over `brewhouse.stages`."""
