"""``torch.compile`` as training uses it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

_DIVISION_OPTIONS = ("eager_numerics.division_rounding", "emulate_divison_rounding")  # since PyTorch 2.11, and before


def compile_network(network: nn.Module, *, cuda_graphs: bool = False) -> nn.Module:
    """The network through ``torch.compile``, for batches of one size.

    Args:
        network: on its device.
        cuda_graphs: on a GPU, replay recorded kernels instead of starting one after the other, which for small networks
            takes longer than to run them. Call ``begin_step`` before each training step then; outputs and gradients
            of the step before are overwritten.

    On CUDA, compiled divisions are approximate by default, so that training would see other codes than deployment. Here
    they round as IEEE 754 asks for; other compiled code of the process keeps its settings.

    A prepared network in evaluation mode runs uncompiled: it computes the constants of the integer model.
    """
    known = torch._inductor.list_options()
    options: dict[str, str | int | bool | Callable[..., object]] = {n: True for n in _DIVISION_OPTIONS if n in known}
    assert options, "no compiler setting for exact division is known in this version of PyTorch"
    if cuda_graphs and any(parameter.is_cuda for parameter in network.parameters()):
        options["triton.cudagraphs"] = True
    return torch.compile(network, dynamic=False, options=options)  # type: ignore[return-value]


def begin_step() -> None:
    """What compiled networks gave so far may be overwritten; needed where they are replayed as CUDA graphs."""
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
