"""A simulated professional network whose true action probabilities are known."""
