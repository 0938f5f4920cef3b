"""Convolutions and linear layers, as modules and as functions of the network's own tensors.

A layer that is called as a function becomes a module beside the code that calls it (``contract.borrowed_layers``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.graph.contract import slice_rules
from qkd_deploy.graph.contract.borrowed_layers import (
    NetworkTensor,
    TensorSource,
    borrowed_convolution,
    borrowed_linear,
    equal_layer,
    exact_parameters,
)
from qkd_deploy.graph.contract.channel_affine import ChannelAffine
from qkd_deploy.graph.contract.evaluation import attribute_at, output_grid, own_call
from qkd_deploy.graph.contract.lowering import Lowering
from qkd_deploy.graph.contract.operator import Frozen, Operands, Operator, Rewrite, refuse_if
from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.ops.constants import CONSTANT
from qkd_deploy.graph.ops.indexing import SLICE
from qkd_deploy.quantizers.batch_norm import BatchNorm

PARAMETERS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
"""Names of the arguments of functions that are layers."""
_COMPUTED = "a layer whose weights are computed from the input has no place for a quantizer"
_UNBATCHED = "a convolution of an unbatched tensor has no integer kernel"


# -- modules -----------------------------------------------------------------------------------------------------------


def _lower_conv(low: Lowering, node: Node, target: nn.Conv1d | nn.Conv2d) -> None:
    refuse_if(target.padding_mode != "zeros", f"padding mode {target.padding_mode!r} has no integer kernel")
    refuse_if(low.rank(node.args[0]) != target.weight.dim(), _UNBATCHED)
    low.become(node, CONV, (node.args[0],), target=str(node.target))


def _lower_linear(low: Lowering, node: Node, target: nn.Linear) -> None:
    low.become(node, LINEAR, (node.args[0],), target=str(node.target))


# -- functions ---------------------------------------------------------------------------------------------------------


def _lower_functional(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, PARAMETERS, bias=None)
    sources = _own(low, bound["weight"]), None if bound["bias"] is None else _own(low, bound["bias"])
    become_layer(low, node, bound, *sources)


def become_layer(
    low: Lowering, node: Node, bound: Mapping[str, Any], weight: TensorSource, bias: TensorSource | None
) -> None:
    """Make the call of a function a layer with such a weight and bias; equal calls in one module share one.

    Args:
        low: the graph, and the network, which gets the layer.
        node: calls ``F.linear``, ``F.conv1d`` or ``F.conv2d``.
        bound: its arguments by name.
        weight: where the weight is read.
        bias: where the bias is read; None without one.

    Raises:
        StaysInFloat: a convolution of a tensor without a batch.
    """
    shape, function = weight.read().shape, node.target
    refuse_if(function is not F.linear and low.rank(bound["input"]) != len(shape), _UNBATCHED)
    options = {name: bound[name] for name in PARAMETERS[3:] if name in bound}
    layer = borrowed_linear(shape) if function is F.linear else borrowed_convolution(shape, options)
    layer.sources = (weight, bias)
    holder = low.network.get_submodule(node.module)
    name = equal_layer(holder, layer)
    if name is None:
        name = node.name
        holder.add_module(name, layer)
    path = f"{node.module}.{name}" if node.module else name
    low.become(node, LINEAR if function is F.linear else CONV, (bound["input"],), target=path)


def _own(low: Lowering, value: Ref) -> NetworkTensor:
    """The parameter or buffer, or rows of one, that an argument is."""
    refuse_if(not isinstance(value, Ref), _COMPUTED)
    node, rows = low.graph.node(value.name), slice(None)
    if node.kind == SLICE.name:
        (dim, *bounds), *others = node.kwargs["ranges"]
        refuse_if(dim != 0 or others, _COMPUTED)
        node, rows = low.graph.node(node.inputs[0]), slice(*bounds)
    refuse_if(node.kind != CONSTANT.name, _COMPUTED)
    path, _, name = str(node.target).rpartition(".")
    return NetworkTensor(low.network.get_submodule(path), name, rows)


# -- computation -------------------------------------------------------------------------------------------------------


def layer_of(network: nn.Module, node: Node) -> Any:
    """Look up the convolution or linear module of a layer."""
    return network.get_submodule(str(node.target))


def layer_in_float(network: nn.Module, node: Node, x: Tensor) -> Tensor:
    """Compute a layer with what is folded into it as it is in full precision, before its activation function."""
    weight, bias = layer_parameters(network, node)
    return with_folded(network, node, layer_forward(layer_of(network, node), x, weight, bias))


def with_folded(network: nn.Module, node: Node, value: Tensor) -> Tensor:
    """Compute the batch norm and the constants a channel behind a layer, on its output."""
    batch_norm, affine = batch_norm_of(network, node), affine_of(network, node)
    if batch_norm is not None:
        value = batch_norm(value)
    return value if affine is None else affine(value, channel_dim(layer_of(network, node)))


def channel_dim(layer: nn.Module) -> int:
    """The dimension of a layer's output that its channels, or features, are in."""
    return -1 if isinstance(layer, nn.Linear) else 1


def layer_forward(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute a convolution or linear layer with other parameters than its own."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
    result: Tensor = layer._conv_forward(x, weight, bias)
    return result


def paddings(conv: nn.Conv1d | nn.Conv2d) -> tuple[tuple[int, int], ...]:
    """How much a convolution pads at the begin and the end of each dimension; "same" has its odd element at the end."""
    if conv.padding == "same":
        total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    if conv.padding == "valid":
        return ((0, 0),) * len(conv.kernel_size)
    return tuple((int(p), int(p)) for p in conv.padding)


def layer_parameters(network: nn.Module, node: Node, *, exact: bool = False) -> tuple[Tensor, Tensor | None]:
    """Read weight and bias of a layer, with the gain and the offset of what stood in front of it.

    Args:
        network: holds the modules.
        node: a layer.
        exact: compute in float64 what is computed, and add up the bias in one order: every machine gives the same bits.
    """
    layer = layer_of(network, node)
    weight, bias = exact_parameters(layer) if exact else (layer.weight, layer.bias)
    if node.offset is not None:
        moved = _moved(layer, weight, attribute_at(network, node.offset), exact)
        bias = moved if bias is None else bias + moved
    if node.gain is not None:
        weight = weight * _by_input(layer, attribute_at(network, node.gain))
    return weight, bias


def _moved(layer: nn.Module, weight: Tensor, offset: Tensor, exact: bool) -> Tensor:
    """What a layer makes of an offset of its input."""
    if exact:
        return _in_order(weight.double() * _by_input(layer, offset).double())
    if isinstance(layer, nn.Linear):
        return F.linear(offset, weight)
    return (weight * _by_input(layer, offset)).flatten(1).sum(1)


def _by_input(layer: nn.Module, values: Tensor) -> Tensor:
    """Values of the input's features or channels, in a shape that multiplies the weight of a layer."""
    if isinstance(layer, nn.Linear):
        return values
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
    of_groups = values.view(layer.groups, 1, -1).expand(-1, layer.out_channels // layer.groups, -1)
    return of_groups.reshape(layer.out_channels, -1, *[1] * len(layer.kernel_size))


def _in_order(terms: Tensor) -> Tensor:
    """The sum of every row, column after column."""
    terms = terms.flatten(1)
    total = torch.zeros_like(terms[:, 0])
    for column in terms.unbind(1):
        total = total + column
    return total


def is_depthwise(layer: nn.Module) -> bool:
    """Say if every output channel of a convolution reads one input channel of its own."""
    return isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1


def batch_norm_of(network: nn.Module, node: Node) -> BatchNorm | None:
    """Find the batch norm fused behind a layer; None where there is none."""
    if node.batch_norm is None:
        return None
    module = network.get_submodule(node.batch_norm)
    assert isinstance(module, BatchNorm)
    return module


def affine_of(network: nn.Module, node: Node) -> ChannelAffine | None:
    """Find the constants a channel fused behind a layer; None where there are none."""
    if node.affine is None:
        return None
    module = network.get_submodule(node.affine)
    assert isinstance(module, ChannelAffine)
    return module


def _layer_codes(operator: Operator, frozen: Frozen, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    module = layer_of(frozen.network, node)
    floats = not operator.floats_at_the_end
    return frozen.layer(node).forward(module, args[0], output_grid(frozen, node), node.clip, needs_grid=floats)


def _slice_rows(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> dict[str, int]:
    """Rows of the operand, unless a batch norm takes statistics over all of them."""
    return {} if node.batch_norm is not None else slice_rules.rows(model, node, operands, dim)


# -- rows --------------------------------------------------------------------------------------------------------------

CONV = Operator(
    name="conv",
    docs="a convolution, with its batch norm and its activation function",
    kernel="QLinearConv",
    operands=Operands.LAYER_BITS,
    own_scale=True,
    floats=own_call,
    integers=_layer_codes,
    torch=(nn.Conv1d, nn.Conv2d),
    lower=_lower_conv,
    absorbs_clip=True,
)
LINEAR = Operator(
    name="linear",
    docs="a linear layer, with its batch norm and its activation function",
    kernel="QGemm",
    operands=Operands.LAYER_BITS,
    own_scale=True,
    floats=own_call,
    integers=_layer_codes,
    torch=(nn.Linear,),
    lower=_lower_linear,
    floats_at_the_end=True,
    absorbs_clip=True,
    slices=_slice_rows,
)
ROWS = (
    CONV,
    LINEAR,
    Rewrite(
        name="functional_layer",
        becomes="a layer, where its weight is a parameter",
        torch=(F.linear, F.conv1d, F.conv2d),
        lower=_lower_functional,
    ),
)
