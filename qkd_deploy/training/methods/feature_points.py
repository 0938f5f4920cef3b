"""The place in a network where its feature is: the input of the last layer, or the output of a named module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qkd_deploy.errors import UserError, closest
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.ops.layers import affine_of
from qkd_deploy.graph.prepared import PreparedModel


def module_at(network: nn.Module, path: str) -> nn.Module:
    """Find the module of a teacher that is named.

    Raises:
        UserError: there is none; the message names the closest.
    """
    names = [name for name, _ in network.named_modules() if name]
    if path not in names:
        raise _unknown(f"the teacher has no module {path!r}", path, names)
    return network.get_submodule(path)


@torch.no_grad()
def last_layer(network: nn.Module, images: Tensor) -> nn.Module:
    """Find the linear layer or convolution of a teacher that is called last for a batch.

    Raises:
        UserError: none is called.
    """
    called: list[nn.Module] = []
    layers = [module for module in network.modules() if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))]
    handles = [layer.register_forward_hook(lambda module, args, output: called.append(module)) for layer in layers]
    with evaluating(network):
        network(images)
    for handle in handles:
        handle.remove()
    if not called:
        raise UserError("the teacher has no linear layer or convolution to take a feature from")
    return called[-1]


def input_of_last_layer(prepared: PreparedModel) -> str:
    """Name the tensor that the last layer of a student reads, as it is before quantization and data movement."""
    nodes = {node.name: node for node in prepared.graph.nodes}
    name = prepared.layers()[-1].inputs[0]
    while nodes[name].kind in ("requantize", "reshape", "dropout"):
        name = nodes[name].inputs[0]
    return name


def output_of_module(prepared: PreparedModel, path: str) -> str:
    """Name the last tensor that a module of a student makes.

    Raises:
        UserError: it makes none, or another one than the teacher's does.
    """
    nodes = prepared.graph.nodes
    made = [node for node in nodes if node.module == path or node.module.startswith(f"{path}.")]
    made += [node for node in nodes if path in (node.target, node.batch_norm)]
    made += [node for node in nodes if path in _modules_behind(prepared, node)]
    if not made:
        known = sorted({node.module for node in nodes if node.module})
        raise _unknown(f"the student makes no tensor in a module {path!r}", path, known)
    if any(_has_moved_from(path, node) for node in nodes):
        raise UserError(
            f"the gain and offset of {path!r} have moved into the layers behind it, so that it makes another tensor "
            "than the teacher's does; choose a module that is no layer norm in front of linear layers"
        )
    if made[-1].partial:
        raise UserError(
            f"of {path!r} the student computes only the positions that are read behind it, so that it makes another "
            "tensor than the teacher's does; choose a module in front of it"
        )
    return made[-1].name


def _modules_behind(prepared: PreparedModel, node: Node) -> frozenset[str]:
    """The modules whose constants a layer has taken over, so that it makes what they did."""
    affine = affine_of(prepared.network, node)
    return frozenset() if affine is None else affine.modules_of_steps


def _has_moved_from(path: str, node: Node) -> bool:
    """Look for a layer norm at ``path`` whose gain or offset a layer behind it has taken over."""
    return any(moved and moved.rpartition(".")[0] == path for moved in (node.gain, node.offset))


def _unknown(problem: str, path: str, names: list[str]) -> UserError:
    advice = closest(path, names, cutoff=0.3, otherwise=f"its modules: {', '.join(names[:8])} ...")
    return UserError(f"{problem}; {advice}")
