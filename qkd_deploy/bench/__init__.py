"""How fast a file runs, and in how much memory."""
