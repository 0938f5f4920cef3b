"""The levels of verification, one file each."""
