"""Whole tasks from files to files, which the commands call."""
