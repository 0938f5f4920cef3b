"""The torch models of a verification: in evaluation mode, with outputs in the order of those of the ONNX graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def evaluation_mode(module: nn.Module | None) -> Iterator[None]:
    """``module.eval()`` for the time of the context; a model in train mode would move its batch norms' statistics."""
    modes = {} if module is None else {part: part.training for part in module.modules()}
    if module is not None:
        module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


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
