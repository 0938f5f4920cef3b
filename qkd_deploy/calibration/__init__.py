"""Scales and statistics of a prepared model, from batches of data."""
