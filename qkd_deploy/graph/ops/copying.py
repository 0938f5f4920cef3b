"""Copies: those that change nothing, and those that repeat what there is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.graph.contract.evaluation import mover, plain
from qkd_deploy.graph.contract.lowering import Lowering, is_computed
from qkd_deploy.graph.contract.operator import Rewrite, StaysInFloat, refuse_if
from qkd_deploy.graph.ir import Node, Ref, references
from qkd_deploy.graph.ops.indexing import lower_index
from qkd_deploy.graph.ops.movement import RESHAPE, require_one_batch_dim
from qkd_deploy.graph.ops.whole_numbers import lower_to_floats

_ALONG_THE_BATCH = "tensors that are repeated along the batch, or get more dimensions, stay in float"
_REPEATING = ("expand", "expand_as", "repeat")


def _lower_copy(low: Lowering, node: Node, target: Any) -> None:
    """Copies that change nothing, and those that repeat what there is once, such as a token for every image."""
    source = node.args[0]
    unchanged = node.unchanged and not is_computed(node.args[1:], node.kwargs)
    if unchanged and target != "repeat":
        require_one_batch_dim(node)
        low.keep_call(node, RESHAPE)
    elif target in _REPEATING and low.tensor(source) is not None:
        _lower_expand(low, node, source)
    elif target not in ("to", "type") or is_computed(node.args[1:], node.kwargs) or not lower_to_floats(low, node):
        raise StaysInFloat("a copy that changes the tensor stays in float")


def _lower_expand(low: Lowering, node: Node, source: Ref) -> None:
    """One size for every dimension of the result, -1 where it is the source's own."""
    given = _given_sizes(low, node)
    if node.target == "repeat":
        _require_one_batch(low, node, source, given)
    sizes = [_expanded_size(low, node, source, given, dim) for dim in range(len(node.sizes))]
    if None in sizes:
        _repeat(low, node, source, given)
    else:
        low.become(node, EXPAND, (source,), sizes=tuple(sizes))


def _given_sizes(low: Lowering, node: Node) -> Any:
    """The sizes of a call, which may be one by one or a sequence."""
    _, *given = node.args
    sizes = given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
    whole = [ref.name for ref in references(sizes) if isinstance(low.graph.node(ref.name).value, tuple)]
    refuse_if(whole, "an expansion to the whole size of another tensor stays in float")
    return sizes


def _require_one_batch(low: Lowering, node: Node, source: Ref, times: Any) -> None:
    more = len(node.sizes) - low.rank(source)
    for dim in low.batch_dims(source):
        refuse_if(list(times[more + dim : more + dim + 1]) != [1], _ALONG_THE_BATCH)


def _expanded_size(low: Lowering, node: Node, source: Ref, given: Any, dim: int) -> Any:
    """The size that a dimension is expanded to; -1 where it is the source's own, None where it is no expansion."""
    shape, more = node.sizes, len(node.sizes) - low.rank(source)
    old = ((1,) * more + low.shape(source))[dim]
    if dim in node.batch_dims:
        if dim - more in low.batch_dims(source):
            return -1
        told = node.target != "expand_as" and dim < len(given) and shape[dim] == low.graph.batch_size
        return given[dim] if old == 1 and told else None
    if dim >= more and old == shape[dim]:
        return -1
    return shape[dim] if old == 1 else None


def _repeat(low: Lowering, node: Node, source: Ref, times: Any) -> None:
    """Whole tensors one behind the other, along one dimension after the other."""
    shape = low.shape(source)
    refuse_if(
        node.target != "repeat" or len(times) != len(shape) or not all(isinstance(count, int) for count in times),
        _ALONG_THE_BATCH,
    )
    repeated = [(dim, tuple(range(shape[dim])) * count) for dim, count in enumerate(times) if count != 1]
    lower_index(low, node, source, *repeated)


def _lower_repeat_interleave(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, ("input", "repeats", "dim"), dim=None)
    repeats, dim = bound["repeats"], bound["dim"]
    refuse_if(
        not isinstance(repeats, int) or not isinstance(dim, int),
        "repeating by computed numbers, or the flattened tensor, stays in float",
    )
    size = low.shape(node.args[0])[dim]
    lower_index(low, node, node.args[0], (dim, tuple(i // repeats for i in range(size * repeats))))


def _lower_identity(low: Lowering, node: Node, target: Any) -> None:
    if not lower_to_floats(low, node):
        low.remove(node)


def _expand(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    return x.expand(sizes)


EXPAND = mover(
    name="expand",
    docs="dimensions of one element repeated",
    kernel="Expand",
    floats=plain(_expand),
)
COPY = Rewrite(
    name="copy",
    becomes="nothing, a reshape, an expansion, or an index where whole tensors repeat",
    torch=("to", "type", "clone", "detach", torch.clone, torch.detach, *_REPEATING),
    lower=_lower_copy,
)
IDENTITY = Rewrite(
    name="identity",
    becomes="nothing",
    torch=(nn.Identity, "contiguous", torch.Tensor.contiguous, "float"),
    lower=_lower_identity,
)
ROWS = (
    EXPAND,
    COPY,
    IDENTITY,
    Rewrite(
        name="repeat_interleave",
        becomes="an index",
        torch=(torch.repeat_interleave, "repeat_interleave"),
        lower=_lower_repeat_interleave,
    ),
)
