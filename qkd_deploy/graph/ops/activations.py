"""Activation functions beside sigmoids: ranges, rectifiers, gates, dropout, and any function of single elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.errors import UserError
from qkd_deploy.graph.contract import slice_rules
from qkd_deploy.graph.contract.evaluation import attribute_at, kernel, mover, own_call, plain, requantized
from qkd_deploy.graph.contract.lowering import Lowering, called, named, torch_key
from qkd_deploy.graph.contract.operator import Operands, Operator, Rewrite, Sign, StaysInFloat, Tail, refuse_if
from qkd_deploy.graph.contract.signs import as_operands
from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.exact.unary import leaky_scale
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.ops.arithmetic import ADD, MUL, least_of_operand, requantized_scale
from qkd_deploy.graph.ops.constants import own_constant, parameter
from qkd_deploy.graph.ops.gates import HARD_SIGMOID, SIGMOID
from qkd_deploy.graph.ops.indexing import SLICE
from qkd_deploy.graph.ops.movement import RESHAPE
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams
from qkd_deploy.graph.trace.modes import DROPOUT_FUNCTIONS

_INFINITY = float("inf")
_SMALL_SLOPE = 0.3
"""A rectifier with no larger slope keeps tensors from going far below zero."""


# -- ranges ------------------------------------------------------------------------------------------------------------

_RANGES: dict[Any, tuple[float, float]] = {
    **dict.fromkeys((nn.ReLU, F.relu, torch.relu, "relu"), (0.0, _INFINITY)),
    **dict.fromkeys((nn.ReLU6, F.relu6), (0.0, 6.0)),
}
"""Ranges of the activation functions that take no bounds as arguments."""


def _lower_clip(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, ("input", "min", "max"), **_default_bounds(target))
    limits = _RANGES.get(torch_key(target)) or _bounds(bound, named(target))
    if limits[0] > 0 or limits[1] < 0:
        finite = {key: limit for key, limit in zip(("min", "max"), limits, strict=True) if math.isfinite(limit)}
        node.args, node.kwargs, node.target, node.method = (node.args[0],), finite, torch.clamp, False
        raise StaysInFloat("a clamp to a range without zero has no place on a quantization grid")
    low.become(node, CLIP, (bound.get("input", node.args[0]),))
    node.clip = limits


def _default_bounds(target: Any) -> dict[str, float]:
    return {"min": -1.0, "max": 1.0} if target is F.hardtanh else {}


def _bounds(bound: dict[str, Any], name: str) -> tuple[float, float]:
    low, high = bound.get("min"), bound.get("max")
    if name.startswith("clamp_max") and high is None:
        low, high = None, low  # its only argument is the upper bound
    refuse_if(isinstance(low, Ref) or isinstance(high, Ref), "a clamp whose bounds are tensors stays in float")
    return -_INFINITY if low is None else float(low), _INFINITY if high is None else float(high)


# -- gates -------------------------------------------------------------------------------------------------------------


def _lower_silu(low: Lowering, node: Node, target: Any) -> None:
    _gated(low, node, SIGMOID)


def _lower_hard_swish(low: Lowering, node: Node, target: Any) -> None:
    _gated(low, node, HARD_SIGMOID)


def _gated(low: Lowering, node: Node, gate: Operator) -> None:
    """``x * gate(x)``."""
    operand = node.args[0]
    opened = low.insert_before(node, gate, (operand,), "gate", node.sizes)
    low.become(node, MUL, (operand, opened))


def _lower_glu(low: Lowering, node: Node, target: Any) -> None:
    """The first half times the sigmoid of the second."""
    operand, dim = node.args[0], low.bind(node, target, ("input", "dim"), dim=-1)["dim"]
    shape, batch = node.sizes, {"batch_dims": node.batch_dims}
    half, dim = shape[dim], dim % len(shape)
    refuse_if(dim in node.batch_dims, "a gate along the batch stays in float")
    first, second = ({"ranges": ((dim, start, start + half, 1),)} for start in (0, half))
    values = low.insert_before(node, SLICE, (operand,), "values", shape, kwargs=first, **batch)
    gates = low.insert_before(node, SLICE, (operand,), "gates", shape, kwargs=second, **batch)
    opened = low.insert_before(node, SIGMOID, (gates,), "gate", shape)
    low.become(node, MUL, (values, opened))


# -- leaky rectifiers --------------------------------------------------------------------------------------------------


def _lower_leaky_relu(low: Lowering, node: Node, target: Any) -> None:
    operand, slope = node.args[0], _slope(low, node, target)
    refuse_if(low.is_activation(slope), "a rectifier whose slopes are computed stays in float")
    count = math.prod(low.shape(slope))
    if isinstance(slope, Ref) and count > 1:
        _per_channel_slopes(low, node, operand, slope, count)
    else:
        low.become(node, LEAKY_RELU, (operand, own_constant(low, node, slope, "own_slope")))


def _slope(low: Lowering, node: Node, target: Any) -> Any:
    """The slope below zero: a number, or the constant that holds it."""
    if isinstance(target, nn.PReLU):
        return parameter(low, node, target, "weight")
    if isinstance(target, nn.LeakyReLU):
        return float(target.negative_slope)
    if len(node.args) > 1:
        return node.args[1]
    return node.kwargs.get("negative_slope", node.kwargs.get("weight", 0.01))


def _per_channel_slopes(low: Lowering, node: Node, operand: Ref, slope: Ref, channels: int) -> None:
    """``max(x, 0) + slope * min(x, 0)``."""
    shape = node.sizes
    column = (channels, *(1 for _ in shape[2:]))
    slopes = low.insert_before(node, RESHAPE, (slope, column), "slopes", column, target=torch.reshape)
    below = low.insert_before(node, CLIP, (operand,), "below", shape, clip=(-_INFINITY, 0.0))
    scaled = low.insert_before(node, MUL, (below, slopes), "scaled", shape)
    above = low.insert_before(node, CLIP, (operand,), "above", shape, clip=(0.0, _INFINITY))
    low.become(node, ADD, (above, scaled))


def leaky_relu(x: Tensor, slope: float | Tensor) -> Tensor:
    """``x`` where it is positive, ``slope * x`` elsewhere; the slope may be a parameter of one element."""
    return F.prelu(x, slope.reshape(1)) if isinstance(slope, Tensor) else F.leaky_relu(x, slope)


def _leaky_codes(grid: QuantParams, x: QuantizedTensor, slope: float | Tensor) -> Tensor:
    return grid.quantize(leaky_relu(x.real(), slope))


def slope_of(network: nn.Module, graph: Graph, node: Node) -> float:
    """Read the slope of a leaky rectifier as a number, when it is no longer trained."""
    slope = node.args[1]
    if isinstance(slope, Ref):
        slope = attribute_at(network, str(graph.node(slope.name).target)).item()
    return float(slope)


def _leaky_scale(network: nn.Module, graph: Graph, node: Node, operands: Sequence[CodeRange], out: CodeRange) -> float:
    return leaky_scale(slope_of(network, graph, node), operands[0], out, node.name)


def _sign_of_leaky(node: Node, operands: Sequence[Sign], network: nn.Module, graph: Graph) -> Sign:
    if as_operands(node, operands, network, graph) is Sign.NONNEGATIVE:
        return Sign.NONNEGATIVE
    slope = node.args[1]
    small = not isinstance(slope, (int, float)) or 0 <= slope <= _SMALL_SLOPE
    return Sign.MOSTLY_POSITIVE if small else Sign.SIGNED


# -- dropout -----------------------------------------------------------------------------------------------------------

_DROPOUTS = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *DROPOUT_FUNCTIONS,
)


def _lower_dropout(low: Lowering, node: Node, target: Any) -> None:
    if isinstance(target, nn.Module):
        low.keep_call(node, DROPOUT)
        return
    # traced in eval mode: a dropout that is active here is random in the deployed model, too
    bound = low.bind(node, target, ("input", "p", "training"), p=0.5, training=target is not torch.dropout)
    if bound["training"] is not False:
        raise UserError(f"{node.label} drops values in eval mode, too; call it with training=self.training")
    refuse_if(isinstance(bound["p"], Ref), "a dropout whose rate is a tensor cannot be prepared")
    node.args, node.kwargs = (node.args[0],), {"p": float(bound["p"])}
    low.keep_call(node, DROPOUT)


def _drop(network: nn.Module, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> Any:
    """Modules know their mode, functions are told."""
    if isinstance(node.target, str):
        return own_call(network, node, args, kwargs, training)
    assert callable(node.target)
    return node.target(*args, training=training, **kwargs)


def _slice_dropout(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> dict[str, int]:
    """Single elements are dropped, unless whole channels are."""
    single = {nn.Dropout, F.dropout, torch.dropout}
    return slice_rules.elements(model, node, operands, dim) if called(model, node) in single else {}


# -- rows --------------------------------------------------------------------------------------------------------------

CLIP = Operator(
    name="clip",
    docs="a tensor within a range that holds zero; part of what makes the tensor where nobody else reads it",
    kernel="QLinearAdd",
    operands=Operands.WIDE,
    own_scale=True,
    tail=Tail.BESIDE_OTHERS,
    floats=plain(lambda x: x),
    integers=kernel(requantized),
    torch=(
        *(nn.ReLU, nn.ReLU6, nn.Hardtanh, F.relu, F.relu6, F.hardtanh),
        *(torch.relu, torch.relu_, "relu", "relu_", torch.clamp, torch.clip, "clamp", "clamp_", "clip", "clip_"),
        *(torch.clamp_min, torch.clamp_max, "clamp_min", "clamp_min_", "clamp_max", "clamp_max_"),
    ),
    lower=_lower_clip,
    sign=as_operands,
    absorbs_clip=True,
    slices=slice_rules.elements,
    portable_scale=requantized_scale,
    lower_bound=least_of_operand,
)
LEAKY_RELU = Operator(
    name="leaky_relu",
    docs="x where it is positive, slope * x elsewhere",
    kernel="QLinearLeakyRelu",
    operands=Operands.WIDE,
    own_scale=True,
    tail=Tail.BESIDE_OTHERS,
    floats=plain(leaky_relu),
    integers=kernel(_leaky_codes),
    torch=(nn.LeakyReLU, F.leaky_relu, nn.PReLU, F.prelu, torch.prelu, "prelu"),
    lower=_lower_leaky_relu,
    sign=_sign_of_leaky,
    float_constants=True,
    absorbs_clip=True,
    slices=slice_rules.elements,
    portable_scale=_leaky_scale,
)
DROPOUT = mover(
    name="dropout",
    docs="nothing",
    kernel="",
    floats=_drop,
    torch=_DROPOUTS,
    lower=_lower_dropout,
    moves_with_clip=True,
    slices=_slice_dropout,
    internal=True,
)
ROWS = (
    CLIP,
    LEAKY_RELU,
    DROPOUT,
    Rewrite(name="silu", becomes="a product with a sigmoid", torch=(nn.SiLU, F.silu), lower=_lower_silu),
    Rewrite(
        name="hard_swish",
        becomes="a product with a hard sigmoid",
        torch=(nn.Hardswish, F.hardswish),
        lower=_lower_hard_swish,
    ),
    Rewrite(name="glu", becomes="two slices, a sigmoid and a product", torch=(nn.GLU, F.glu), lower=_lower_glu),
)
