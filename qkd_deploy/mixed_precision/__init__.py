"""Bits for each layer: what they cost, and how to choose them."""
