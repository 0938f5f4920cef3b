"""Lets the tests of this folder import the shared helpers, and gives each the same random weights on every run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Some random networks of a few channels are dead behind their first ReLU, where no step has a gradient."""
    torch.manual_seed(0)
