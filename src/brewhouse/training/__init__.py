"""Training: one entry point, `torchrun -m brewhouse.training`, from one process to many nodes."""
