"""Outputs of the torch models as arrays in the order of the ONNX graph's outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn


def outputs_of(module: nn.Module, floats: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """Run ``module`` on float arrays without gradients; nested outputs are flattened in order."""
    with torch.inference_mode():
        return list(_flat(module(*map(torch.from_numpy, floats))))


def _flat(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, torch.Tensor):
        yield value.detach().cpu().numpy()
    elif isinstance(value, dict):
        for item in value.values():
            yield from _flat(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)
