"""Data sets with boxes: one file a format, and what turns the boxes of files into targets."""
