"""Stages of a run: pre-training, and a method with its networks, features and refreshed parameters."""
