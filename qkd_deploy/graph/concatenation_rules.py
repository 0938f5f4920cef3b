"""Concatenations, of constants too."""

from __future__ import annotations

from typing import Any

from qkd_deploy.errors import UserError
from qkd_deploy.graph.arithmetic_rules import ArithmeticRules
from qkd_deploy.graph.ir import Node, Ref


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
        parts = [self._unexpanded(part) for part in tensors]
        if all(self._is_activation(part) for part in parts):
            return self._settle(node, "concat", (list(parts),), dim=dim)
        return self._concat_constants(node, parts, dim)

    def _concat_constants(self, node: Node, parts: list[Ref], dim: int) -> str:
        """Class tokens and the like: the sum of everything, padded to the size of the result."""
        computed = [i for i, part in enumerate(parts) if self._is_activation(part)]
        if computed != list(range(computed[0], computed[-1] + 1)) if computed else True:
            return "a concatenation of tensors with constants between them stays in float"
        body = parts[computed[0]]
        if len(computed) > 1:
            inner = [parts[i] for i in computed]
            size = sum(self._shape(part)[dim] for part in inner)
            shape = (*self._shape(body)[:dim], size, *self._shape(body)[dim + 1 :])
            batch = {"batch_dims": self.batch_dims.get(body.name, ())}
            body = self._before(node, "concat", (inner,), "joined", shape, kwargs={"dim": dim}, **batch)
        groups = [*parts[: computed[0]], body, *parts[computed[-1] + 1 :]]
        sizes = [self._shape(part)[dim] for part in groups]
        padded = [
            self._padded(node, part, dim, sum(sizes[:i]), sum(sizes[i + 1 :]), f"part_{i}")
            for i, part in enumerate(groups)
        ]
        total = padded.pop(computed[0])
        for i, part in enumerate(padded[:-1]):
            total = self._before(node, "add", (total, part), f"sum_{i}", node.shape or (), batch_dims=node.batch_dims)
        return self._settle(node, "add", (total, padded[-1]))

    def _padded(self, node: Node, part: Ref, dim: int, before: int, after: int, suffix: str) -> Ref:
        amounts = [(0, 0)] * self._rank(part)
        amounts[dim] = (before, after)
        shape = list(self._shape(part))
        shape[dim] += before + after
        return self._before(
            node, "pad", (part,), suffix, tuple(shape), kwargs={"amounts": tuple(amounts), "mode": "constant"},
            batch_dims=self.batch_dims.get(part.name, ()),
        )  # fmt: skip
