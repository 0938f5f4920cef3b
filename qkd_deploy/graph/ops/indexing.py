"""Parts of tensors: indexing, chunks, splits and selections become slices, or lists of positions."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qkd_deploy.graph.contract.evaluation import mover, plain
from qkd_deploy.graph.contract.lowering import Lowering, is_computed, named
from qkd_deploy.graph.contract.operator import Rewrite, StaysInFloat, refuse_if
from qkd_deploy.graph.ir import Node, Ref, substitute
from qkd_deploy.graph.ops.float_ops import FLOAT_OP, become_part
from qkd_deploy.graph.ops.movement import RESHAPE, require_one_batch_dim
from qkd_deploy.graph.ops.reductions import lower_extreme_part

Range = tuple[int, int, int, int]
"""Dimension, start, stop and step of a slice."""
Positions = tuple[int, ...] | Ref
"""Indices along a dimension: numbers, or the network's own buffer of integers."""

_NOT_ALONE = "indexing with more than slices of non-batch dimensions stays in float"
_SPLITS = ("chunk", "split", "tensor_split")
_EXTREMES: dict[str, Any] = {"max": torch.argmax, "min": torch.argmin}
_WHOLE = slice(None)


def take(x: Tensor, ranges: tuple[Range, ...]) -> Tensor:
    """Keep every step-th index, ``start <= index < stop``, of each ``(dim, start, stop, step)``."""
    index = [_WHOLE] * x.dim()
    for dim, *bounds in ranges:
        index[dim] = slice(*bounds)
    return x[tuple(index)]


def _index(x: Tensor, dim: int, positions: tuple[int, ...] | Tensor) -> Tensor:
    """Take what is at these positions of a dimension, in this order; a buffer may count backwards."""
    return x.index_select(dim, torch.as_tensor(positions, device=x.device) % x.shape[dim])


SLICE = mover(
    name="slice",
    docs="evenly spaced parts of some dimensions",
    kernel="Slice",
    floats=plain(take),
)
INDEX = mover(
    name="index",
    docs="listed parts of a dimension",
    kernel="Gather",
    floats=plain(_index),
)


# -- x[...] ------------------------------------------------------------------------------------------------------------


@dataclass
class _Parts:
    """The parts that an index asks for: slices, dimensions that a single index drops, and lists of positions."""

    ranges: list[Range] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    listed: dict[int, Positions] = field(default_factory=dict)


def _lower_getitem(low: Lowering, node: Node, target: Any) -> None:
    operand, index = node.args
    refuse_if(not isinstance(operand, Ref), _NOT_ALONE)
    source = low.graph.node(operand.name)
    if source.shape is None:
        _lower_part_of_split(low, node, source, index)
        return
    items = list(index) if isinstance(index, tuple) else [index]
    if any(item is None for item in items):
        _require_only_new_dimensions(items)
        require_one_batch_dim(node)
        low.keep_call(node, RESHAPE)
        return
    if is_computed(items[0]) and isinstance(items[0], slice):
        refuse_if(any(item != _WHOLE for item in items[1:]), _NOT_ALONE)
        _lower_slice_of_batches(low, node, operand, items[0])
        return
    parts = _Parts()
    for dim, (size, item) in enumerate(zip(low.shape(operand), _spelled_out(items, low.rank(operand)), strict=False)):
        _add_part(low, parts, dim, size, item)
    _lower_parts(low, node, operand, parts)


def _require_only_new_dimensions(items: list[Any]) -> None:
    refuse_if(not all(item is None or item is Ellipsis or item == _WHOLE for item in items), _NOT_ALONE)


def _spelled_out(items: list[Any], rank: int) -> list[Any]:
    """Items with whole dimensions in place of the dots."""
    if Ellipsis not in items:
        return items
    at = items.index(Ellipsis)
    return [*items[:at], *[_WHOLE] * (rank - len(items) + 1), *items[at + 1 :]]


def _add_part(low: Lowering, parts: _Parts, dim: int, size: int, item: Any) -> None:
    """Note what one item of an index asks for."""
    if item == _WHOLE:
        return
    if isinstance(item, int) and not isinstance(item, bool):
        parts.ranges.append((dim, item % size, item % size + 1, 1))
        parts.dropped.append(dim)
    elif (positions := _positions(low, item, size)) is not None:
        parts.listed[dim] = positions
    elif isinstance(item, slice) and not is_computed(item):
        parts.ranges.append((dim, *item.indices(size)))
    else:
        raise StaysInFloat(_NOT_ALONE)


def _positions(low: Lowering, item: Any, size: int) -> Positions | None:
    """The positions that a list or a buffer of integers names; None for everything else."""
    if isinstance(item, Ref):
        constant = low.graph.node(item.name).kind == "constant" and low.rank(item) == 1
        return item if constant and low.dtype(item) in (torch.int32, torch.int64) else None
    if not isinstance(item, (list, tuple)) or not item or any(type(i) is not int for i in item):
        return None
    return tuple(i % size for i in item)


def _lower_parts(low: Lowering, node: Node, operand: Ref, parts: _Parts) -> None:
    if parts.listed:
        refuse_if(len(parts.listed) > 1 or parts.ranges, _NOT_ALONE)
        lower_index(low, node, operand, *parts.listed.items())
    elif parts.dropped:
        _take_and_drop(low, node, operand, parts.ranges, parts.dropped)
    else:
        _take(low, node, operand, parts.ranges)


# -- chunk(2, 1)[i], unbind()[i], max(1)[0] ----------------------------------------------------------------------------


def _lower_part_of_split(low: Lowering, node: Node, source: Node, index: Any) -> None:
    """``x.chunk(2, 1)[i]`` as a slice of ``x``; the call itself then has no readers. What is no slice is a part."""
    try:
        _lower_as_slice(low, node, source, index)
    except StaysInFloat:
        become_part(low, node, source, index)


def _lower_as_slice(low: Lowering, node: Node, source: Node, index: Any) -> None:
    is_module = isinstance(source.target, str) and not source.method
    refuse_if(not isinstance(index, int) or source.kind != FLOAT_OP.name or is_module, _NOT_ALONE)
    name = named(source.target)
    operand, *rest = source.args or (None,)
    if name == "unbind":
        _one_of(low, node, operand, source.kwargs.get("dim", rest[0] if rest else 0), index)
    elif name in _EXTREMES and low.rank(operand) > 0:
        _lower_extreme(low, node, source, index)
    elif name in _SPLITS:
        _lower_chunk(low, node, source, index)
    else:
        raise StaysInFloat(_NOT_ALONE)


def _lower_extreme(low: Lowering, node: Node, source: Node, index: int) -> None:
    """``x.max(1)[0]`` as the largest elements, ``x.max(1)[1]`` as their positions, the first of equal ones."""
    name = named(source.target)
    bound = low.bind(source, source.target, ("input", "dim", "keepdim"), keepdim=False)
    refuse_if(is_computed(bound["dim"], bound["keepdim"]), _NOT_ALONE)
    if index == 0:
        lower_extreme_part(low, node, source, name)
    else:
        node.become(FLOAT_OP.name, (bound["input"], bound["dim"], bound["keepdim"]))
        node.target, node.reason = _EXTREMES[name], "positions are whole numbers, which have no scale"


def _lower_chunk(low: Lowering, node: Node, source: Node, index: int) -> None:
    """One part of a split, as a slice; along the batch, of whole batches."""
    dim, start, stop = _chunk(low, source, index)
    operand: Ref = source.args[0]
    if low.batch_dims(operand, (0,)) != (0,) or dim != 0:
        refuse_if(is_computed(source.args[1:], source.kwargs), _NOT_ALONE)
        _take(low, node, operand, [(dim, start, stop, 1)])
        return
    batch = low.graph.batch_size
    refuse_if(low.batch_dims(Ref(node.name)) != (0,) or start % batch or stop % batch, _NOT_ALONE)
    _take_batches(low, node, operand, start // batch, stop // batch)


def _lower_slice_of_batches(low: Lowering, node: Node, operand: Ref, given: slice) -> None:
    """``x[n:]``, where ``n`` is computed from the batch size."""

    def number(end: Any) -> Any:
        return low.graph.node(end.name).value if isinstance(end, Ref) else end

    batch = low.graph.batch_size
    bounds = slice(number(given.start), number(given.stop), given.step)
    start, stop, step = bounds.indices(low.shape(operand)[0])
    whole_batches = low.batch_dims(operand) == low.batch_dims(Ref(node.name)) == (0,)
    refuse_if(not whole_batches or step != 1 or start % batch or stop % batch, _NOT_ALONE)
    _take_batches(low, node, operand, start // batch, stop // batch)


def _take_batches(low: Lowering, node: Node, operand: Ref, start: int, stop: int) -> None:
    """Whole batches of several one behind the other, which get a dimension of their own for a moment."""
    size, *rest = low.shape(operand)
    batch = low.graph.batch_size
    count = size // batch
    stacked = (count, batch, *rest)
    apart = low.insert_before(
        node, RESHAPE, (operand, (count, -1, *rest)), "batches", stacked, batch_dims=(1,), target=torch.reshape
    )
    chosen = low.insert_before(
        node,
        SLICE,
        (apart,),
        "chosen",
        (stop - start, batch, *rest),
        kwargs={"ranges": ((0, start, stop, 1),)},
        batch_dims=(1,),
    )
    low.become(node, RESHAPE, (chosen, (-1, *rest)), target=torch.reshape)


def _chunk(low: Lowering, source: Node, index: int) -> tuple[int, int, int]:
    """The dimension and the range of one part of a split, for the examples."""
    operand, *given = source.args
    rest, options = substitute((tuple(given), source.kwargs), lambda ref: low.graph.node(ref.name).value)
    dim = options.get("dim", rest[1] if len(rest) > 1 else 0) % low.rank(operand)
    whole = torch.empty(low.shape(operand), device="meta")
    sizes = [part.shape[dim] for part in getattr(whole, named(source.target))(*rest, **options)]
    start = sum(sizes[: index % len(sizes)])
    return dim, start, start + sizes[index]


# -- functions that take parts -----------------------------------------------------------------------------------------


def _lower_narrow(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, ("input", "dim", "start", "length"))
    dim, start, length = bound["dim"], bound["start"], bound["length"]
    refuse_if(not isinstance(start, int) or not isinstance(length, int), _NOT_ALONE)
    if start < 0:
        start += low.shape(node.args[0])[dim]
    _take(low, node, node.args[0], [(dim, start, start + length, 1)])


def _lower_index_select(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, ("input", "dim", "index"))
    dim = bound["dim"] % low.rank(node.args[0])
    positions = _positions(low, bound["index"], low.shape(node.args[0])[dim])
    if positions is None:
        raise StaysInFloat(_NOT_ALONE)
    lower_index(low, node, node.args[0], (dim, positions))


def _lower_flip(low: Lowering, node: Node, target: Any) -> None:
    """Slices with a step of -1 are no slices of PyTorch's, so the positions are listed."""
    given = (*node.args[1:], *node.kwargs.values())
    dims = list(given[0]) if isinstance(given[0], (list, tuple)) else list(given)
    refuse_if(not dims, _NOT_ALONE)
    shape = low.shape(node.args[0])
    lower_index(low, node, node.args[0], *((dim, tuple(reversed(range(shape[dim])))) for dim in dims))


def _lower_select(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, ("input", "dim", "index"))
    dim, index = bound["dim"], bound["index"]
    refuse_if(not isinstance(dim, int) or not isinstance(index, int), _NOT_ALONE)
    _one_of(low, node, node.args[0], dim, index)


# -- nodes -------------------------------------------------------------------------------------------------------------


def lower_index(low: Lowering, node: Node, operand: Ref, *listed: tuple[int, Positions]) -> None:
    """Take the elements at the positions listed for a dimension, or for one dimension after the other."""
    rank, batch_dims = low.rank(operand), low.batch_dims(operand, (0,))
    followed = [(dim % rank, positions) for dim, positions in listed]
    refuse_if(
        not low.is_float(operand) or any(dim in batch_dims or positions == () for dim, positions in followed),
        _NOT_ALONE,
    )
    *first, (last, chosen) = followed
    shape = list(low.shape(operand))
    for dim, positions in first:
        assert isinstance(positions, tuple)
        shape[dim] = len(positions)
        options = {"dim": dim, "positions": positions}
        operand = low.insert_before(
            node, INDEX, (operand,), f"along_{dim}", tuple(shape), kwargs=options, batch_dims=batch_dims
        )
    low.become(node, INDEX, (operand,), dim=last, positions=chosen)


def _take(low: Lowering, node: Node, operand: Any, ranges: Sequence[Range]) -> None:
    rank = low.rank(operand)
    kept = tuple((dim % rank, *bounds) for dim, *bounds in ranges)
    low.require_off_batch(operand, [dim for dim, *_ in kept], _NOT_ALONE)
    low.become(node, SLICE, (operand,), ranges=kept)


def _one_of(low: Lowering, node: Node, operand: Ref, dim: int, index: int) -> None:
    """The part at one index of a dimension, which goes."""
    dim %= low.rank(operand)
    index %= low.shape(operand)[dim]
    _take_and_drop(low, node, operand, [(dim, index, index + 1, 1)], [dim])


def _take_and_drop(low: Lowering, node: Node, operand: Ref, ranges: list[Range], dropped: list[int]) -> None:
    """A slice, and a reshape without the dimensions of one that it leaves."""
    low.require_off_batch(operand, [dim for dim, *_ in ranges], _NOT_ALONE)
    require_one_batch_dim(node)
    sizes = list(low.shape(operand))
    for dim, *bounds in ranges:
        sizes[dim] = len(range(*bounds))
    options = {"ranges": tuple(ranges)}
    part = low.insert_before(
        node, SLICE, (operand,), "part", tuple(sizes), kwargs=options, batch_dims=low.batch_dims(operand)
    )
    low.become(node, RESHAPE, (part, tuple(dropped)), target=torch.squeeze)


ROWS = (
    SLICE,
    INDEX,
    Rewrite(name="getitem", becomes="a slice, or an index", torch=(operator.getitem,), lower=_lower_getitem),
    Rewrite(name="narrow", becomes="a slice", torch=(torch.narrow, "narrow"), lower=_lower_narrow),
    Rewrite(name="select", becomes="a slice", torch=(torch.select, "select"), lower=_lower_select),
    Rewrite(
        name="index_select",
        becomes="an index",
        torch=(torch.index_select, "index_select"),
        lower=_lower_index_select,
    ),
    Rewrite(name="flip", becomes="an index", torch=(torch.flip, "flip"), lower=_lower_flip),
)
