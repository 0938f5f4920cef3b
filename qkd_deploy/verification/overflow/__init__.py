"""Proofs that no sum overflows, and where it would saturate."""
