"""From a user's module to a graph of plain calls."""
