"""Weights whose names are lost, given to a network by the order in which file and network use theirs.

Exporters fold batch norms into convolutions, whose biases then are the offsets of batch norms:

    bn(conv(x))  =  conv'(x) + b'        conv gets the weights conv', bn the offset b', mean 0, variance 1 and scale 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qkd_deploy.checkpoints.onnx_weights import OnnxLayer
from qkd_deploy.errors import UserError

_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class OrderedWeights:
    """Weights by the network's names, and the paths of batch norms that are folded into layers of the file."""

    weights: dict[str, Tensor]
    folded: list[str]


def modules_in_order(network: nn.Module, images: Tensor) -> list[str]:
    """List the modules with weights of their own, by path, in the order in which the network first calls them.

    Args:
        network: in evaluation mode.
        images: float [N, C, H, W], as it takes them.
    """
    called: dict[str, None] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _module, _inputs, path=path: called.setdefault(path))
        for path, module in network.named_modules()
        if _shapes(module)
    ]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return list(called)


def weights_by_order(
    network: nn.Module, paths: Sequence[str], layers: Sequence[OnnxLayer], network_name: str, source: Path | str
) -> OrderedWeights:
    """Give the layers of a file to modules, one after the other.

    Args:
        network: has the modules; it is not changed.
        paths: from ``modules_in_order``.
        layers: of the file, in execution order.
        network_name: for messages.
        source: the file, for messages.

    Raises:
        UserError: the layer whose turn it is has other entries or shapes than the module, or layers are left over.
    """
    found, turn, offset = OrderedWeights({}, []), 0, None
    for path in paths:
        module, layer = network.get_submodule(path), layers[turn] if turn < len(layers) else None
        if isinstance(module, _BatchNorm) and (layer is None or layer.operator != "BatchNormalization"):
            values, offset = _only_offset(module, offset), None
            found.folded.append(path)
        else:
            if layer is None or offset is not None or not _fits(module, layer):
                its = layer or "the end of the file"
                raise UserError(
                    f"{source} does not fit {network_name}: its weights have other names, and in the order in which "
                    f"they are used {its} is no {path} ({_in_words(module)}); name the model it belongs to"
                )
            values, offset = _shared(module, layer)
            turn += 1
        found.weights.update({f"{path}.{name}": value for name, value in values.items()})
    if offset is not None or turn < len(layers):
        raise UserError(f"{source} has more weights than {network_name}; name the model it belongs to")
    return found


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of a module's own weights, without those of its children."""
    own = {name: value for name, value in module.state_dict().items() if "." not in name and name != _COUNTER}
    return {name: tuple(value.shape) for name, value in own.items()}


def _fits(module: nn.Module, layer: OnnxLayer) -> bool:
    """True where shapes agree; a layer may have a bias that the module lacks, of a batch norm behind it."""
    wanted, given = _shapes(module), {name: tuple(value.shape) for name, value in layer.values.items()}
    return given == wanted or ("bias" in given and {**wanted, "bias": given["bias"]} == given)


def _shared(module: nn.Module, layer: OnnxLayer) -> tuple[dict[str, Tensor], Tensor | None]:
    """The values that the module has a place for, and the bias where it has none."""
    wanted = _shapes(module)
    values = {name: value for name, value in layer.values.items() if name in wanted}
    return values, None if "bias" in wanted else layer.values.get("bias")


def _only_offset(norm: _BatchNorm, offset: Tensor | None) -> dict[str, Tensor]:
    """The entries of a batch norm that adds ``offset`` and does nothing else."""
    zeros = torch.zeros(norm.num_features)
    entries = {"running_mean": zeros, "running_var": zeros + (1 - norm.eps)}
    if norm.affine:
        entries |= {"weight": zeros + 1, "bias": zeros if offset is None else offset}
    return entries


def _in_words(module: nn.Module) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in _shapes(module).items())
