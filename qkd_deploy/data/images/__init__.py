"""Decoded, resized and streamed images."""
