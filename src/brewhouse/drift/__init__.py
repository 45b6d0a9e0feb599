"""Whether a model in use has aged, and what follows: pure decisions over signals of windows."""
