"""Makes PyTorch's ONNX exporter collect its translations once a process instead of in every export (1.4 s each)."""

from __future__ import annotations

import functools
from typing import Any

import torch


def collect_translations_once() -> None:
    """Patch ``torch.onnx.export``; where PyTorch has moved the parts behind it, tests are slower and nothing else."""
    export = torch.onnx.export

    @functools.wraps(export)
    def patched(*args: Any, **kwargs: Any) -> Any:
        _keep_registry()
        return export(*args, **kwargs)

    torch.onnx.export = patched


@functools.cache
def _keep_registry() -> None:
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        return
    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
