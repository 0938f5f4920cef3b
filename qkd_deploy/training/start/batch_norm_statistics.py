"""Statistics for batch norms that came without: those of the images, and nothing that the network computes changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qkd_deploy.graph.modes import evaluating


@torch.no_grad()
def restore_statistics(network: nn.Module, paths: Sequence[str], images: Tensor) -> None:
    """Give batch norms the statistics of their inputs, and scales and offsets with which they compute what they did.

    Args:
        network: is changed in place.
        paths: of the batch norms.
        images: float [N, C, H, W], as the network takes them.
    """
    norms = [network.get_submodule(path) for path in paths]
    hooks = [norm.register_forward_pre_hook(_observe) for norm in norms]
    with evaluating(network):
        network(images)
    for hook in hooks:
        hook.remove()


def _observe(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Set the statistics of a batch norm to those of its input, just before it computes."""
    assert isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
    if not norm.affine:
        return
    others = [dim for dim in range(inputs[0].dim()) if dim != 1]
    variance, mean = (value.double() for value in torch.var_mean(inputs[0], others, correction=0))
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    offset = norm.bias.double() + scale * (mean - norm.running_mean.double())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.bias.copy_(offset)
