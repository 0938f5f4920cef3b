"""Rewrites of the graph before quantizers are placed."""
