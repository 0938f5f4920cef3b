"""Parts of tensors: chunk, split, narrow and indexing with slices become one kind that acts on codes."""

from __future__ import annotations

from typing import Any

import torch

from qkd_deploy.graph.ir import Node, Ref, references
from qkd_deploy.graph.ops.lowering import Rules
from qkd_deploy.graph.ops.operations import Range

_NOT_ALONE = "indexing with more than slices of non-batch dimensions stays in float"


class SlicingRules(Rules):
    """Handlers of indexing and splitting."""

    def _narrow(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "narrow")
        start, length = bound["start"], bound["length"]
        if not isinstance(start, int) or not isinstance(length, int):
            return _NOT_ALONE
        if start < 0:
            start += self._shape(node.args[0])[bound["dim"]]
        return self._take(node, node.args[0], [(bound["dim"], start, start + length, 1)])

    def _getitem(self, node: Node, target: Any) -> str:
        operand, index = node.args
        if not isinstance(operand, Ref):
            return _NOT_ALONE
        source = self.graph.node(operand.name)
        if self.recorder.shapes.get(operand.name) is None:
            return self._part_of_split(node, source, index)
        items = list(index) if isinstance(index, tuple) else [index]
        whole = slice(None)
        if any(item is None for item in items):
            simple = all(item is None or item is Ellipsis or item == whole for item in items)
            node.kind, node.reason = ("reshape", "") if simple else (node.kind, node.reason)
            return "" if simple else _NOT_ALONE
        rank = self._rank(operand)
        if Ellipsis in items:
            at = items.index(Ellipsis)
            items[at : at + 1] = [whole] * (rank - len(items) + 1)
        ranges: list[Range] = []
        dropped: list[int] = []
        listed: dict[int, tuple[int, ...] | Ref] = {}
        for dim, (size, item) in enumerate(zip(self.recorder.shapes[operand.name] or (), items, strict=False)):
            if item == whole:
                continue
            if isinstance(item, int) and not isinstance(item, bool):
                ranges.append((dim, item % size, item % size + 1, 1))
                dropped.append(dim)
                continue
            if (positions := self._positions(item, size)) is not None:
                listed[dim] = positions
                continue
            if not isinstance(item, slice) or list(references(item)):
                return _NOT_ALONE
            ranges.append((dim, *item.indices(size)))
        if listed:
            return self._index(node, operand, *listed.items()) if len(listed) == 1 and not ranges else _NOT_ALONE
        return self._take_and_drop(node, operand, ranges, dropped) if dropped else self._take(node, operand, ranges)

    def _positions(self, item: Any, size: int) -> tuple[int, ...] | Ref | None:
        """The positions that a list or a buffer of integers names; None for everything else."""
        if isinstance(item, Ref):
            whole = self.recorder.dtypes.get(item.name) in (torch.int32, torch.int64)
            return item if whole and self.graph.node(item.name).kind == "constant" and self._rank(item) == 1 else None
        if not isinstance(item, (list, tuple)) or not item or any(type(i) is not int for i in item):
            return None
        return tuple(i % size for i in item)

    def _index(self, node: Node, operand: Ref, *listed: tuple[int, tuple[int, ...] | Ref]) -> str:
        """The elements at the positions listed for a dimension, or for one dimension after the other."""
        rank, batch_dims = self._rank(operand), self.batch_dims.get(operand.name, (0,))
        followed = [(dim % rank, positions) for dim, positions in listed]
        if not self._is_float(operand) or any(dim in batch_dims or positions == () for dim, positions in followed):
            return _NOT_ALONE
        *first, (last, chosen) = followed
        shape = list(self._shape(operand))
        for dim, positions in first:
            assert isinstance(positions, tuple)
            shape[dim] = len(positions)
            options = {"dim": dim, "positions": positions}
            operand = self._before(
                node, "index", (operand,), f"along_{dim}", tuple(shape), kwargs=options, batch_dims=batch_dims
            )
        return self._settle(node, "index", (operand,), dim=last, positions=chosen)

    def _index_select(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "index_select")
        dim = bound["dim"] % self._rank(node.args[0])
        positions = self._positions(bound["index"], self._shape(node.args[0])[dim])
        return _NOT_ALONE if positions is None else self._index(node, node.args[0], (dim, positions))

    def _flip(self, node: Node, target: Any) -> str:
        """Slices with a step of -1 are no slices of PyTorch's, so the positions are listed."""
        given = (*node.args[1:], *node.kwargs.values())
        dims = list(given[0]) if isinstance(given[0], (list, tuple)) else list(given)
        shape = self._shape(node.args[0])
        return (
            self._index(node, node.args[0], *((d, tuple(reversed(range(shape[d])))) for d in dims))
            if dims
            else _NOT_ALONE
        )

    def _select(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "select")
        dim, index = bound["dim"], bound["index"]
        if not isinstance(dim, int) or not isinstance(index, int):
            return _NOT_ALONE
        return self._one_of(node, node.args[0], dim, index)

    def _one_of(self, node: Node, operand: Ref, dim: int, index: int) -> str:
        """The part at one index of a dimension, which goes."""
        dim %= self._rank(operand)
        index %= self._shape(operand)[dim]
        return self._take_and_drop(node, operand, [(dim, index, index + 1, 1)], [dim])

    def _amax(self, node: Node, target: Any) -> str:
        return self._extreme(node, "amax", self._bind(node, target, "extreme"))

    def _amin(self, node: Node, target: Any) -> str:
        return self._extreme(node, "amin", self._bind(node, target, "extreme"))

    def _extreme(self, node: Node, kind: str, bound: dict[str, Any]) -> str:
        """The largest or smallest elements along dimensions, which are those of the codes."""
        operand, dims, keep = bound.get("input"), bound.get("dim"), bound.get("keepdim", False)
        dims = (dims,) if isinstance(dims, int) else dims
        if not isinstance(operand, Ref) or not dims or any(references((dims, keep))) or not self._is_float(operand):
            return "the largest or smallest element of everything stays in float"
        rank = self._rank(operand)
        if any(dim % rank in self.batch_dims.get(operand.name, (0,)) for dim in dims):
            return "the largest or smallest elements along the batch stay in float"
        return self._settle(node, kind, (operand,), dim=tuple(dim % rank for dim in dims), keepdim=bool(keep))

    def _take_and_drop(self, node: Node, operand: Ref, ranges: list[Range], dropped: list[int]) -> str:
        """A slice, and a reshape without the dimensions of one that it leaves."""
        if any(dim in self.batch_dims.get(operand.name, (0,)) for dim, *_ in ranges):
            return _NOT_ALONE
        sizes = list(self._shape(operand))
        for dim, *bounds in ranges:
            sizes[dim] = len(range(*bounds))
        part = self._before(
            node, "slice", (operand,), "part", tuple(sizes), kwargs={"ranges": tuple(ranges)},
            batch_dims=self.batch_dims.get(operand.name, ()),
        )  # fmt: skip
        self._settle(node, "reshape", (part, tuple(dropped)))
        node.target = torch.squeeze
        return ""

    def _part_of_split(self, node: Node, source: Node, index: Any) -> str:
        """``x.chunk(2, 1)[i]`` as a slice of ``x``; the call itself then has no readers."""
        name = source.target if isinstance(source.target, str) else getattr(source.target, "__name__", "")
        if name == "unbind" and isinstance(index, int):
            operand, *rest = source.args
            return self._one_of(node, operand, source.kwargs.get("dim", rest[0] if rest else 0), index)
        if name in ("max", "min") and index == 0:
            return self._extreme(node, f"a{name}", self._bind(source, source.target, "extreme"))
        if name not in ("chunk", "split", "tensor_split") or not isinstance(index, int):
            return _NOT_ALONE
        operand, *rest = source.args
        dim = source.kwargs.get("dim", rest[1] if len(rest) > 1 else 0)
        shape = self.recorder.shapes.get(operand.name) or ()
        if any(isinstance(argument, Ref) for argument in (*rest, *source.kwargs.values())):
            return _NOT_ALONE
        parts = getattr(torch.empty(shape, device="meta"), name)(*rest, **source.kwargs)
        sizes = [part.shape[dim] for part in parts]
        at = index % len(sizes)
        return self._take(node, operand, [(dim, sum(sizes[:at]), sum(sizes[: at + 1]), 1)])

    def _take(self, node: Node, operand: Any, ranges: list[Range]) -> str:
        """Keep every step-th index, ``start <= index < stop``, for every ``(dim, start, stop, step)``."""
        rank = self._rank(operand)
        kept = tuple((dim % rank, start, stop, step) for dim, start, stop, step in ranges)
        if any(dim in self.batch_dims.get(operand.name, (0,)) for dim, *_ in kept):
            return _NOT_ALONE
        return self._settle(node, "slice", (operand,), ranges=kept)
