"""One HTML file about a run: what it learned, what its file proves, and what that takes."""
