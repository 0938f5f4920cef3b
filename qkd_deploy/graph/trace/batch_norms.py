"""Batch norms with an activation function inside, as one batch norm and the steps after it.

Model libraries derive classes from ``nn.BatchNorm2d`` whose forward ends with dropout and an activation function that
they hold as child modules. Where such a module computes exactly ``act(drop(batch_norm(x)))``, tracing makes these
steps of it.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from qkd_deploy.graph.ops.contract import BATCH_NORMS
from qkd_deploy.graph.trace.derived_modules import plain_forward


def followers(network: nn.Module) -> tuple[dict[str, tuple[str, ...]], set[str]]:
    """Look at all classes derived from batch norms.

    Returns:
        for every module that is a batch norm and its children one after another, the children's names; and the paths
        of those that compute something else.
    """
    known: dict[str, tuple[str, ...]] = {}
    others: set[str] = set()
    for path, module in network.named_modules():
        if isinstance(module, BATCH_NORMS) and type(module) not in BATCH_NORMS:
            names = tuple(name for name, _ in module.named_children())
            if _is_chain(module, names):
                known[path] = names
            else:
                others.add(path)
    return known, others


@torch.no_grad()
def _is_chain(module: nn.Module, names: tuple[str, ...]) -> bool:
    """Whether a module equals batch norm and children bit for bit, in eval and in train mode, whatever its weights."""
    generator = torch.Generator().manual_seed(0)
    one = copy.deepcopy(module).float().cpu()
    for tensor in (*one.parameters(), *one.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            tensor[::2] *= -1 if tensor is one.weight else 1
    if isinstance(one.bias, Tensor):
        one.bias -= 1
    two = copy.deepcopy(one)
    channels = one.running_mean.numel() if isinstance(one.running_mean, Tensor) else 0
    x = torch.randn((6, channels, *(5, 5) * (not isinstance(one, nn.BatchNorm1d))), generator=generator) * 3
    try:
        return all(_same(one.train(mode), two.train(mode), names, x) for mode in (False, True))
    except Exception:  # noqa: BLE001  # the user's forward may raise anything: then it is no chain
        return False


def _same(one: nn.Module, two: nn.Module, names: tuple[str, ...], x: Tensor) -> bool:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = one(x.clone())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        got = plain_forward(two, x.clone())
        for name in names:
            got = two.get_submodule(name)(got)
    same_state = all(torch.equal(a, b) for a, b in zip(one.buffers(), two.buffers(), strict=True))
    return isinstance(expected, Tensor) and torch.equal(expected, got) and same_state
