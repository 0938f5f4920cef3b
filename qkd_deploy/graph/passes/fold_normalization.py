"""The normalisation of pixels moves into the layers that read an image, so that its codes are the raw pixels.

    W x + b  =  (W * gain) y + (b + W offset),  where by channel  x = gain * y + offset,  y = (pixel - 128) / 64

The parameters stay where the user put them. Zeros that are padded to x are, by channel, pixels of other values than
128: they become a border of the nearest pixel, which training sees, too. Where something else than layers and movements
reads the image, it keeps a learned scale in the user's own numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.module_keys import module_key
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.ops.constants import PixelMap
from qkd_deploy.graph.ops.layers import paddings
from qkd_deploy.graph.passes.context import PassContext
from qkd_deploy.pixels.normalization import CENTERED, SCALE, ZERO_POINT, Normalization

_MOVES = ("transpose", "slice", "index", "resize", "roll")
"""Kinds that only move elements, whose place tells their channel afterwards."""


@dataclass(frozen=True)
class _Affine:
    """For every element of a tensor: gain and offset that give x of y, and the y of a padded zero (all float64)."""

    gain: Tensor
    offset: Tensor
    zero: Tensor

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.gain, self.offset, self.zero

    def along(self, dim: int) -> _Affine | None:
        """The numbers by index of one dimension; None where they depend on others, too."""
        others = tuple(other for other in range(self.gain.dim()) if other != dim)
        least, most = ([end(part, others) for part in self.parts()] for end in (torch.amin, torch.amax))
        return _Affine(*least) if all(map(torch.equal, least, most)) else None

    def expanded(self, shape: tuple[int, ...]) -> _Affine:
        """The numbers of channels, for a tensor [N, C, ...]."""
        return _Affine(*(part.view(1, -1, *[1] * (len(shape) - 2)).expand(shape) for part in self.parts()))


class _Elsewhere(Exception):
    """An image is read by what cannot take its normalisation; the text says by what."""


def fold_normalization(context: PassContext) -> None:
    """Fold the normalisation of every input that is an image; one that cannot be is left, with its reason."""
    normalization = context.normalization
    if normalization is None or normalization == CENTERED:
        return
    for node in [context.graph.node(name) for name in context.graph.inputs]:
        if len(node.sizes) == 4 and normalization.channels in (1, node.sizes[1]):
            try:
                found = dict(_reached(context, node, _of_image(node, normalization)))
                _require_own_weights(context.graph, found)
            except _Elsewhere as reason:
                node.reason = f"{reason}; it keeps a learned scale, and its codes are not the pixels"
            else:
                _fold(context, node, found)


def _of_image(node: Node, normalization: Normalization) -> _Affine:
    whole = normalization.for_channels(node.sizes[1])
    zeros = [(pixel - ZERO_POINT) * SCALE for pixel in whole.zero_pixels]
    numbers = (torch.tensor(values, dtype=torch.float64) for values in (*whole.affine, zeros))
    return _Affine(*numbers).expanded(node.sizes)


# -- who reads an image ------------------------------------------------------------------------------------------------


def _reached(context: PassContext, source: Node, affine: _Affine) -> Iterator[tuple[Node, _Affine]]:
    """The image, all layers that read it and all pads on the way, each with the numbers that belong to its operand.

    Raises:
        _Elsewhere: something else reads it.
    """
    graph = context.graph
    yield source, affine
    if source.name in graph.outputs():
        raise _Elsewhere("the network returns it")
    for reader in graph.users(source.name):
        if reader.is_layer:
            along = affine.along(1 if reader.kind == "conv" else len(source.sizes) - 1)
            yield reader, _known(along, reader)
        elif reader.kind != "scalar":
            if reader.kind == "pad":
                yield reader, _padded_channels(reader, affine)
            yield from _behind(context, reader, affine)


def _behind(context: PassContext, reader: Node, affine: _Affine) -> Iterator[tuple[Node, _Affine]]:
    moved = list(_reached(context, reader, _moved(context.model, reader, affine)))
    return iter(moved[1:])


def _moved(model: nn.Module, node: Node, affine: _Affine) -> _Affine:
    """The numbers behind a node that only moves elements."""
    if node.kind == "pad":
        return _padded_channels(node, affine).expanded(node.sizes)
    if node.kind == "reshape":
        return _Affine(*(part.reshape(node.sizes) for part in affine.parts()))
    if node.kind not in _MOVES or len(node.inputs) > 1:
        raise _Elsewhere(f"{node.label or node.name} reads the normalised image")
    floats = operator_of(node).floats
    return _Affine(*(floats(model, node, (part, *node.args[1:]), node.kwargs, False) for part in affine.parts()))


def _padded_channels(node: Node, affine: _Affine) -> _Affine:
    """The numbers by channel of what is padded, in other dimensions than that of the channels."""
    along = affine.along(1)
    if any(node.kwargs["amounts"][1]):
        raise _Elsewhere(f"{node.label or node.name} pads its channels")
    return _known(along, node)


def _known(along: _Affine | None, node: Node) -> _Affine:
    if along is None:
        raise _Elsewhere(f"{node.label or node.name} mixes its channels")
    return along


def _require_own_weights(graph: Graph, found: dict[Node, _Affine]) -> None:
    """Refuse layers that read something else, too: one weight cannot be for both."""
    targets = {node.target for node in found if node.is_layer}
    for node in graph.nodes:
        if node.is_layer and node.target in targets and node not in found:
            raise _Elsewhere(f"{node.target} reads other tensors, too")


# -- what becomes of them ----------------------------------------------------------------------------------------------


def _fold(context: PassContext, image: Node, found: dict[Node, _Affine]) -> None:
    by_channel = found.pop(image).along(1)
    assert by_channel is not None
    image.kwargs = {"pixels": _keep(context.model, image, by_channel)}
    layers = {node: affine for node, affine in found.items() if node.is_layer}
    for node, affine in layers.items():
        path = _keep(context.model, node, affine)
        node.gain, node.offset = f"{path}.gain", f"{path}.offset"
    for node in found.keys() - layers.keys():
        if node.kwargs["mode"] == "constant" and (values := _border(found[node])):
            node.become("border", node.args, amounts=node.kwargs["amounts"], values=values)
    _pad_before_convolutions(context, {node: _border(affine) for node, affine in layers.items()})


def _border(affine: _Affine) -> tuple[float, ...]:
    """The border that a padding with zeros is, by channel; () where it is the zero of the codes."""
    values = tuple(affine.zero.tolist())
    return values if any(values) else ()


def _keep(model: nn.Module, node: Node, affine: _Affine) -> str:
    """Give the network the numbers that a node needs; returns their path."""
    name = module_key(f"{node.name}_pixels")
    model.add_module(name, PixelMap(affine.gain.float(), affine.offset.float()))
    return name


def _pad_before_convolutions(context: PassContext, borders: dict[Node, tuple[float, ...]]) -> None:
    """Let convolutions that pad zeros read a border instead."""
    modules = {context.model.get_submodule(str(node.target)) for node, values in borders.items() if values}
    for node, values in borders.items():
        layer = context.model.get_submodule(str(node.target))
        if layer in modules and isinstance(layer, (nn.Conv1d, nn.Conv2d)) and any(map(any, paddings(layer))):
            channels = context.graph.node(node.inputs[0]).sizes[1]
            _insert_border(context.graph, node, ((0, 0), (0, 0), *paddings(layer)), values or (0.0,) * channels)
    for layer in modules:
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            layer.padding = (0,) * len(layer.kernel_size)


def _insert_border(graph: Graph, node: Node, amounts: tuple[tuple[int, int], ...], values: tuple[float, ...]) -> None:
    operand = graph.node(node.inputs[0])
    shape = tuple(size + sum(amount) for size, amount in zip(operand.sizes, amounts, strict=True))
    border = Node(
        graph.unused_name(f"{node.name}_border"),
        "border",
        (Ref(operand.name),),
        {"amounts": amounts, "values": values},
        f"{node.label}.border",
        node.module,
        shape=shape,
        batch_dims=operand.batch_dims,
    )
    graph.insert_before(node, border)
    node.args = (Ref(border.name),)
