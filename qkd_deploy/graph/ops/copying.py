"""Copies: those that change nothing, and those that repeat what there is."""

from __future__ import annotations

from typing import Any

from qkd_deploy.graph.ir import Node, Ref, references
from qkd_deploy.graph.ops.indexing import SlicingRules

_ALONG_THE_BATCH = "tensors that are repeated along the batch, or get more dimensions, stay in float"


class CopyingRules(SlicingRules):
    """Handlers of expanding and repeating."""

    def _copy(self, node: Node, target: Any) -> str:
        """Copies that change nothing, and those that repeat what there is once, such as a token for every image."""
        source = node.args[0]
        unchanged = self.recorder.unchanged.get(node.name) and not any(references((node.args[1:], node.kwargs)))
        if unchanged and target != "repeat":
            node.kind, node.reason = "reshape", ""
            return ""
        if target in ("expand", "expand_as", "repeat") and self._is_float(source):
            return self._expand(node, source)
        return "a copy that changes the tensor stays in float"

    def _expand(self, node: Node, source: Ref) -> str:
        """One size for every dimension of the result, -1 where it is the source's own."""
        shape, batch_dims = node.shape or (), self.batch_dims.get(source.name, ())
        given = node.args[1] if len(node.args) == 2 and isinstance(node.args[1], (tuple, list)) else node.args[1:]
        if any(isinstance(self.recorder.python.get(ref.name), tuple) for ref in references(given)):
            return "an expansion to the whole size of another tensor stays in float"
        more = len(shape) - self._rank(source)
        if node.target == "repeat" and any(list(given[more + dim : more + dim + 1]) != [1] for dim in batch_dims):
            return _ALONG_THE_BATCH
        sizes: list[Any] = []
        for dim, (old, new) in enumerate(zip((1,) * more + self._shape(source), shape, strict=True)):
            follows = dim in node.batch_dims
            if dim >= more and (dim - more in batch_dims if follows else old == new):
                sizes.append(-1)
            elif old != 1 or (follows and (node.target == "expand_as" or dim >= len(given))):
                return self._repeat(node, source, given)
            else:
                sizes.append(given[dim] if follows else new)
        return self._settle(node, "expand", (source,), sizes=tuple(sizes))

    def _repeat(self, node: Node, source: Ref, times: Any) -> str:
        """Whole tensors one behind the other, along one dimension after the other."""
        shape = self._shape(source)
        if node.target != "repeat" or len(times) != len(shape) or not all(isinstance(count, int) for count in times):
            return _ALONG_THE_BATCH
        repeated = [(dim, tuple(range(shape[dim])) * count) for dim, count in enumerate(times) if count != 1]
        return self._index(node, source, *repeated)

    def _repeat_interleave(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "repeat_interleave")
        repeats, dim = bound["repeats"], bound.get("dim")
        if not isinstance(repeats, int) or not isinstance(dim, int):
            return "repeating by computed numbers, or the flattened tensor, stays in float"
        size = self._shape(node.args[0])[dim]
        return self._index(node, node.args[0], (dim, tuple(i // repeats for i in range(size * repeats))))
