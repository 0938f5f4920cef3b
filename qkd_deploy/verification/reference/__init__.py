"""The exact integer reference in NumPy; it shares nothing with the PyTorch side."""
