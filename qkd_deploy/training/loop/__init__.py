"""Epochs and steps: what runs for every batch."""
