"""Concatenations, of constants too."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch

from qkd_deploy.errors import UserError
from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.ops.arithmetic import ArithmeticRules


class ConcatenationRules(ArithmeticRules):
    """Handlers of concatenations."""

    def _concat(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "concat")
        tensors = bound["tensors"]
        if isinstance(tensors, Ref):
            raise UserError(f"{node.label} concatenates a computed list; name its parts, as in a, b = x.chunk(2, 1)")
        dim = bound.get("dim", 0) % len(node.shape or ())
        if not all(self._is_float(part) for part in tensors):
            return "a concatenation with integer tensors stays in float"
        parts = [self._of_rank(node, part, i) for i, part in enumerate(self._once(tensors))]
        constants = self.graph.constants()
        moving = [part.name not in constants for part in parts]
        if all(moving) or not any(moving):
            return self._settle(node, "concat", (list(parts),), dim=dim)
        return self._concat_constants(node, parts, moving, dim)

    def _of_rank(self, node: Node, part: Ref, i: int) -> Ref:
        """A constant that its copies gave more dimensions, with as many of them."""
        missing = len(node.shape or ()) - self._rank(part)
        if not missing:
            return part
        shape = (1,) * missing + self._shape(part)
        return self._before(node, "reshape", (part, shape), f"token_{i}", shape, target=torch.reshape)

    def _concat_constants(self, node: Node, parts: list[Ref], moving: list[bool], dim: int) -> str:
        """Class tokens and the like: the sum of everything, padded to the size of the result."""
        groups: list[Ref] = []
        first, joined = -1, 0
        for moves, run in groupby(zip(moving, parts, strict=True), lambda pair: pair[0]):
            refs = [part for _, part in run]
            if moves:
                first = len(groups) if first < 0 else first
                joined += 1
                refs = [self._joined(node, refs, dim, "joined" if joined == 1 else f"joined_{joined}")]
            groups.extend(refs)
        sizes = [self._shape(part)[dim] for part in groups]
        padded = [
            self._padded(node, part, dim, sum(sizes[:i]), sum(sizes[i + 1 :]), f"part_{i}")
            for i, part in enumerate(groups)
        ]
        total = padded.pop(first)
        for i, part in enumerate(padded[:-1]):
            total = self._before(node, "add", (total, part), f"sum_{i}", node.shape or (), batch_dims=node.batch_dims)
        return self._settle(node, "add", (total, padded[-1]))

    def _joined(self, node: Node, parts: list[Ref], dim: int, suffix: str) -> Ref:
        """Neighbours that all depend on the input, as one tensor."""
        first = parts[0]
        if len(parts) == 1:
            return first
        shape = list(self._shape(first))
        shape[dim] = sum(self._shape(part)[dim] for part in parts)
        batch = {"batch_dims": self.batch_dims.get(first.name, ())}
        return self._before(node, "concat", (parts,), suffix, tuple(shape), kwargs={"dim": dim}, **batch)

    def _padded(self, node: Node, part: Ref, dim: int, before: int, after: int, suffix: str) -> Ref:
        amounts = [(0, 0)] * self._rank(part)
        amounts[dim] = (before, after)
        shape = list(self._shape(part))
        shape[dim] += before + after
        return self._before(
            node, "pad", (part,), suffix, tuple(shape), kwargs={"amounts": tuple(amounts), "mode": "constant"},
            batch_dims=self.batch_dims.get(part.name, ()),
        )  # fmt: skip
