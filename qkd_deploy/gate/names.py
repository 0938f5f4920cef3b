"""Names that exported files bear."""

from __future__ import annotations

PREFIX = "qkd_deploy."
"""Begins the key of each metadata entry of ours."""
PRODUCER = "qkd-deploy"
"""Who wrote the file. No other word may stand there: it lies where runtimes look for the mark of other formats."""
GRAPH = "qkd_deploy"
"""What the graph is called."""
BATCH = "batch"
"""What the batch dimension is called."""
