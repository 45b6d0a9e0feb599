"""The gate: results and a policy in, a reasoned verdict out. Pure functions."""
