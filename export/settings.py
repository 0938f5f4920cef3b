"""The forms in which a file can be written; readable without importing torch."""

from __future__ import annotations

TARGETS = ("ort",)
"""Runtimes."""

WEIGHTS = ("int8", "packed")
INPUTS = ("float32", "uint8")
