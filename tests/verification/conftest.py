"""Lets the tests of this folder import its graph builder and its comparison, and the shared helpers."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "support")]
