"""Training: one loop for all methods, configuration, checkpoints, metrics and progress."""
