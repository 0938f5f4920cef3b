"""``torch.compile`` as training uses it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

_DIVISION_OPTIONS = ("eager_numerics.division_rounding", "emulate_divison_rounding")  # since PyTorch 2.11, and before


def compile_network(network: nn.Module) -> nn.Module:
    """The network through ``torch.compile``, for batches of one size.

    On CUDA, compiled divisions are approximate by default, so that training would see other codes than deployment. Here
    they round as IEEE 754 asks for; other compiled code of the process keeps its settings.

    A prepared network in evaluation mode runs uncompiled: it computes the constants of the integer model.
    """
    known = torch._inductor.list_options()
    options: dict[str, str | int | bool | Callable[..., object]] = {n: True for n in _DIVISION_OPTIONS if n in known}
    assert options, "no compiler setting for exact division is known in this version of PyTorch"
    return torch.compile(network, dynamic=False, options=options)  # type: ignore[return-value]
