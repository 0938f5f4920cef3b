"""Parts of tensors: chunk, split, narrow and indexing with slices become one kind that acts on codes."""

from __future__ import annotations

from typing import Any

import torch

from qkd_deploy.graph.ir import Node, Ref, references
from qkd_deploy.graph.rules import Rules

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
        return self._take(node, node.args[0], [(bound["dim"], start, start + length)])

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
        ranges, dropped = [], []
        for dim, (size, item) in enumerate(zip(self.recorder.shapes[operand.name] or (), items, strict=False)):
            if item == whole:
                continue
            if isinstance(item, int) and not isinstance(item, bool):
                ranges.append((dim, item % size, item % size + 1))
                dropped.append(dim)
                continue
            if not isinstance(item, slice) or list(references(item)) or item.step not in (None, 1):
                return _NOT_ALONE
            start, stop, _ = item.indices(size)
            ranges.append((dim, start, stop))
        return self._take_and_drop(node, operand, ranges, dropped) if dropped else self._take(node, operand, ranges)

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
        return self._take_and_drop(node, operand, [(dim, index, index + 1)], [dim])

    def _take_and_drop(self, node: Node, operand: Ref, ranges: list[tuple[int, int, int]], dropped: list[int]) -> str:
        """A slice, and a reshape without the dimensions of one that it leaves."""
        if any(dim in self.batch_dims.get(operand.name, (0,)) for dim, _, _ in ranges):
            return _NOT_ALONE
        sizes = list(self._shape(operand))
        for dim, start, stop in ranges:
            sizes[dim] = stop - start
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
        return self._take(node, operand, [(dim, sum(sizes[:at]), sum(sizes[: at + 1]))])

    def _take(self, node: Node, operand: Any, ranges: list[tuple[int, int, int]]) -> str:
        """Keep ``start <= index < stop`` of every ``(dim, start, stop)``."""
        rank = self._rank(operand)
        kept = tuple((dim % rank, start, stop) for dim, start, stop in ranges)
        if any(dim in self.batch_dims.get(operand.name, (0,)) for dim, _, _ in kept):
            return _NOT_ALONE
        return self._settle(node, "slice", (operand,), ranges=kept)
