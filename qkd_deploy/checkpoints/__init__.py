"""Checkpoints and weights: what files hold, and how networks come out of them."""
