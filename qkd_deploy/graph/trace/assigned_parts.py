"""Assignments to parts of tensors, ``x[:, ::2] = y``, as steps of their own that leave the tensor as it was.

The variable then stands for the new tensor. Where another variable shares its memory and is read later, that is not
what Python computes; so the traced network is compared with the network itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qkd_deploy.graph.trace.errors import Untraceable


def with_part(x: Tensor, index: Any, value: Any) -> Tensor:
    """Give ``x`` with ``value`` at ``index``."""
    if isinstance(index, Tensor) and index.dtype == torch.bool and index.shape == x.shape:
        return torch.where(index, value, x)  # which has an operator at any batch size
    changed = x.clone()
    changed[index] = value
    return changed


def read_elsewhere(line: str) -> Untraceable:
    """Make the error of a tensor that is assigned to at ``line`` and read under another name."""
    return Untraceable(
        f"it assigns to a part of a tensor that is read under another name, too ({line})",
        "build the tensor from parts instead (torch.cat, torch.where, F.pad), or {leaf}",
    )
