"""The torch models of a verification: run on arrays, with outputs in the order of those of the ONNX graph."""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch
from torch import nn

from qkd_deploy.export.onnx_export import flat_tensors


def tensors_for(module: nn.Module, floats: tuple[np.ndarray, ...]) -> tuple[torch.Tensor, ...]:
    """Float arrays as tensors on the device of ``module``."""
    own = next(chain(module.parameters(), module.buffers()), None)
    return tuple(torch.from_numpy(array).to("cpu" if own is None else own.device) for array in floats)


def outputs_of(module: nn.Module, floats: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """Run ``module`` on float arrays without gradients; nested outputs are flattened in order."""
    with torch.inference_mode():
        return [tensor.cpu().numpy() for tensor in flat_tensors(module(*tensors_for(module, floats)))]
