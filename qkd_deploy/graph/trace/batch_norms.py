"""Batch norms with an activation function inside, as one batch norm and the steps after it.

Model libraries derive classes from ``nn.BatchNorm2d`` whose forward ends with dropout and an activation function that
they hold as child modules. Where such a module computes exactly ``act(drop(batch_norm(x)))``, tracing makes these
steps of it, and the batch norm can be folded into the layer in front.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.graph.trace.derived_modules import BATCH_NORMS, plain_forward


def batch_norm_chains(network: nn.Module) -> tuple[dict[str, tuple[str, ...]], set[str]]:
    """Sort the modules whose classes are derived from batch norms.

    Returns:
        for every module that is a batch norm and its children one after another, the children's names; and the paths
        of those that compute something else.
    """
    derived = {path: module for path, module in network.named_modules() if _is_derived(module)}
    children = {path: tuple(name for name, _ in module.named_children()) for path, module in derived.items()}
    chains = {path: children[path] for path, module in derived.items() if _is_chain(module, children[path])}
    return chains, set(derived) - set(chains)


def _is_derived(module: nn.Module) -> bool:
    return isinstance(module, BATCH_NORMS) and type(module) not in BATCH_NORMS


@torch.no_grad()
def _is_chain(module: nn.Module, names: tuple[str, ...]) -> bool:
    """Compare a module with batch norm and children, bit for bit, in both modes, on random weights and inputs."""
    generator = torch.Generator().manual_seed(0)
    one = _with_random_weights(module, generator)
    two = copy.deepcopy(one)
    x = torch.randn(_input_shape(one), generator=generator) * 3
    try:
        return _same(one.eval(), two.eval(), names, x) and _same(one.train(), two.train(), names, x)
    except Exception:  # noqa: BLE001  # the user's forward may raise anything: then it is no chain
        return False


def _with_random_weights(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Copy a module with random weights and statistics, so that no step of it is the identity by chance.

    Variances stay positive; half of the weights are negative and the biases have both signs.
    """
    made = copy.deepcopy(module).float().cpu()
    for tensor in (*made.parameters(), *made.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    if isinstance(made.weight, Tensor):
        made.weight[::2] *= -1
    if isinstance(made.bias, Tensor):
        made.bias -= 1
    return made


def _input_shape(module: nn.Module) -> tuple[int, ...]:
    """Return a shape that a batch norm takes: 6 examples, 5 x 5 pixels where it is one of images."""
    channels = module.running_mean.numel() if isinstance(module.running_mean, Tensor) else 0
    return (6, channels) if isinstance(module, nn.BatchNorm1d) else (6, channels, 5, 5)


def _same(one: nn.Module, two: nn.Module, names: tuple[str, ...], x: Tensor) -> bool:
    """Compare results and running statistics of a module with those of its steps, the same random numbers drawn."""

    def steps(x: Tensor) -> Tensor:
        x = plain_forward(two, x)
        for name in names:
            x = two.get_submodule(name)(x)
        return x

    expected, got = _seeded(one, x), _seeded(steps, x)
    return isinstance(expected, Tensor) and torch.equal(expected, got) and _same_buffers(one, two)


def _seeded(run: Callable[[Tensor], Any], x: Tensor) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return run(x.clone())


def _same_buffers(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.buffers(), two.buffers(), strict=True))
