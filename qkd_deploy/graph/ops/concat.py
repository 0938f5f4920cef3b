"""Concatenations and stacks, of constants too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.errors import UserError
from qkd_deploy.graph.contract import slice_rules
from qkd_deploy.graph.contract.evaluation import kernel, plain
from qkd_deploy.graph.contract.lowering import Lowering
from qkd_deploy.graph.contract.operator import Operands, Operator, Rewrite, Tail, refuse_if
from qkd_deploy.graph.contract.signs import as_operands
from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.ops.arithmetic import ADD
from qkd_deploy.graph.ops.movement import PAD, RESHAPE, require_one_batch_dim
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams


def _lower_concat(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, ("tensors", "dim"), dim=0)
    tensors, dim = bound["tensors"], bound["dim"] % len(node.sizes)
    if isinstance(tensors, Ref):
        raise UserError(f"{node.label} concatenates a computed list; name its parts, as in a, b = x.chunk(2, 1)")
    refuse_if(not all(low.is_float(part) for part in tensors), "a concatenation with integer tensors stays in float")
    single = low.without_batch_copies(tuple(tensors))
    parts = [_of_rank(low, node, part, i) for i, part in enumerate(single)]
    constants = low.graph.constants()
    moving = [part.name not in constants for part in parts]
    if all(moving) or not any(moving):
        low.become(node, CONCAT, (parts,), dim=dim)
    else:
        _add_padded(low, node, _joined_neighbours(low, node, parts, moving, dim), dim)


def _of_rank(low: Lowering, node: Node, part: Ref, i: int) -> Ref:
    """A constant that its copies gave more dimensions, with as many of them."""
    missing = len(node.sizes) - low.rank(part)
    if not missing:
        return part
    shape = (1,) * missing + low.shape(part)
    return low.insert_before(node, RESHAPE, (part, shape), f"token_{i}", shape, target=torch.reshape)


# -- constants between what is computed, such as class tokens ----------------------------------------------------------


def _joined_neighbours(
    low: Lowering, node: Node, parts: list[Ref], moving: list[bool], dim: int
) -> list[tuple[Ref, bool]]:
    """Neighbours that depend on the input as one tensor, constants one by one; each with whether it depends on it."""
    groups: list[tuple[Ref, bool]] = []
    joined = 0
    for moves, run in groupby(zip(moving, parts, strict=True), lambda pair: pair[0]):
        refs = [part for _, part in run]
        if moves:
            joined += 1
            refs = [_joined(low, node, refs, dim, "joined" if joined == 1 else f"joined_{joined}")]
        groups.extend((part, moves) for part in refs)
    return groups


def _joined(low: Lowering, node: Node, parts: list[Ref], dim: int, suffix: str) -> Ref:
    first = parts[0]
    if len(parts) == 1:
        return first
    shape = list(low.shape(first))
    shape[dim] = sum(low.shape(part)[dim] for part in parts)
    batch = {"batch_dims": low.batch_dims(first)}
    return low.insert_before(node, CONCAT, (parts,), suffix, tuple(shape), kwargs={"dim": dim}, **batch)


def _add_padded(low: Lowering, node: Node, groups: list[tuple[Ref, bool]], dim: int) -> None:
    """The sum of everything, padded to the size of the result; what depends on the input comes first."""
    parts = [part for part, _ in groups]
    sizes = [low.shape(part)[dim] for part in parts]
    padded = [
        _padded(low, node, part, dim, (sum(sizes[:i]), sum(sizes[i + 1 :])), f"part_{i}")
        for i, part in enumerate(parts)
    ]
    total = padded.pop([moves for _, moves in groups].index(True))
    for i, part in enumerate(padded[:-1]):
        shape = node.sizes
        total = low.insert_before(node, ADD, (total, part), f"sum_{i}", shape, batch_dims=node.batch_dims)
    low.become(node, ADD, (total, padded[-1]))


def _padded(low: Lowering, node: Node, part: Ref, dim: int, amount: tuple[int, int], suffix: str) -> Ref:
    amounts = [(0, 0)] * low.rank(part)
    amounts[dim] = amount
    shape = list(low.shape(part))
    shape[dim] += sum(amount)
    options = {"amounts": tuple(amounts), "mode": "constant"}
    return low.insert_before(node, PAD, (part,), suffix, tuple(shape), kwargs=options, batch_dims=low.batch_dims(part))


# -- stacks ------------------------------------------------------------------------------------------------------------


def _lower_stack(low: Lowering, node: Node, target: Any) -> None:
    """Tensors with a new dimension of one, concatenated along it."""
    bound = low.bind(node, target, ("tensors", "dim"), dim=0)
    shape, tensors = node.sizes, bound["tensors"]
    dim = bound["dim"] % len(shape)
    refuse_if(
        dim == 0 or isinstance(tensors, Ref) or not all(low.is_activation(part) for part in tensors),
        "stacking along the batch, or of constants, stays in float",
    )
    require_one_batch_dim(node)
    single = (*shape[:dim], 1, *shape[dim + 1 :])
    batch: dict[str, Any] = {"target": torch.unsqueeze, "batch_dims": node.batch_dims}
    parts = [
        low.insert_before(node, RESHAPE, (part, dim), f"part_{i}", single, **batch) for i, part in enumerate(tensors)
    ]
    low.become(node, CONCAT, (parts,), dim=dim)


# -- rows --------------------------------------------------------------------------------------------------------------


def _concat_codes(grid: QuantParams, parts: list[QuantizedTensor], dim: int) -> Tensor:
    return torch.cat([grid.quantize(part.real()) for part in parts], dim)


def _slice_parts(model: nn.Module, node: Node, operands: Sequence[Node], dim: int) -> dict[str, int]:
    """Parts of every operand, along any dimension but that of the concatenation."""
    return {} if dim == node.kwargs["dim"] else slice_rules.broadcast(model, node, operands, dim)


CONCAT = Operator(
    name="concat",
    docs="tensors one behind the other",
    kernel="QLinearConcat",
    operands=Operands.WIDE,
    own_scale=True,
    tail=Tail.ALWAYS,
    floats=plain(torch.cat),
    integers=kernel(_concat_codes),
    torch=(torch.cat, torch.concat, torch.concatenate),
    lower=_lower_concat,
    sign=as_operands,
    absorbs_clip=True,
    slices=_slice_parts,
)
ROWS = (CONCAT, Rewrite(name="stack", becomes="a concatenation", torch=(torch.stack,), lower=_lower_stack))
