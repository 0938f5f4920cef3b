"""Learnable fake quantizers."""
