"""``torch.compile`` as training uses it."""

from __future__ import annotations

import torch
from torch import nn


def compile_network(network: nn.Module) -> nn.Module:
    """Wrap the network in ``torch.compile``, for batches of one size.

    On CUDA, compiled divisions are approximate by default, so that training would see other codes than deployment. Here
    they round as IEEE 754 asks for; other compiled code of the process keeps its settings.

    A prepared network in evaluation mode runs uncompiled: it computes the constants of the integer model.
    """
    options: dict[str, str | int | bool] = {"eager_numerics.division_rounding": True}
    return torch.compile(network, dynamic=False, options=options)  # type: ignore[return-value, arg-type]
