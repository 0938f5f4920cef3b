"""Products of two activations, and attention, which is made of them."""

from __future__ import annotations

import re
from typing import Any

import torch

from qkd_deploy.errors import UserError
from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.ops.arithmetic import ArithmeticRules, is_number

_NO_PRODUCT = "only an einsum that is one batched matrix product of two activations runs in integers"


class MatrixRules(ArithmeticRules):
    """Handlers of matrix products and scaled dot-product attention."""

    def _matmul(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "two")
        operands = (bound.get("input"), bound.get("other", bound.get("mat2")))
        if not all(self._is_float(operand) for operand in operands) or not self._is_activation(operands[0]):
            return "a matrix product whose left operand is constant stays in float"
        if min(self._rank(operand) for operand in operands) < 2:
            return "a matrix product with a vector has no integer kernel here"
        return self._settle(node, "matmul", operands)

    def _einsum(self, node: Node, target: Any) -> str:
        """A batched matrix product, where each operand has at most one dimension of its own and one is summed over."""
        equation, *operands = node.args
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = list(operands[0])
        spelled = re.fullmatch(r"([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]+)", str(equation).replace(" ", ""))
        if spelled is None or len(operands) != 2 or not all(self._is_activation(operand) for operand in operands):
            return _NO_PRODUCT
        left, right, result = spelled.groups()
        shared = [c for c in left if c in right and c in result]
        rows, columns, summed = (
            [c for c in left if c not in right and c in result],
            [c for c in right if c not in left and c in result],
            [c for c in left if c in right and c not in result],
        )
        letters = {*shared, *rows, *columns, *summed}
        plain = all(len(set(part)) == len(part) for part in (left, right, result)) and letters == {*left, *right}
        if not plain or (len(rows), len(columns), len(summed)) != (1, 1, 1) or not letters >= {*result}:
            return _NO_PRODUCT
        common = [(c, left.index(c), right.index(c)) for c in (*shared, *summed)]
        if any(self._shape(operands[0])[i] != self._shape(operands[1])[j] for _, i, j in common):
            return _NO_PRODUCT  # a single element is repeated
        sizes = {**dict(zip(left, self._shape(operands[0]), strict=True)),
                 **dict(zip(right, self._shape(operands[1]), strict=True))}  # fmt: skip
        batches = {c for c, i in ((c, i) for i, c in enumerate(result)) if i in node.batch_dims}

        def turned(operand: Ref, have: str, want: list[str], suffix: str) -> Ref:
            order = tuple(have.index(c) for c in want)
            if order == tuple(range(len(order))):
                return operand
            follows = tuple(i for i, c in enumerate(want) if c in batches)
            shape = tuple(sizes[c] for c in want)
            return self._before(
                node, "transpose", (operand,), suffix, shape, kwargs={"dims": order}, batch_dims=follows
            )

        one = turned(operands[0], left, [*shared, *rows, *summed], "left")
        two = turned(operands[1], right, [*shared, *summed, *columns], "right")
        made = [*shared, *rows, *columns]
        if "".join(made) == result:
            return self._settle(node, "matmul", (one, two))
        follows = tuple(i for i, c in enumerate(made) if c in batches)
        product = self._before(node, "matmul", (one, two), "product", tuple(sizes[c] for c in made), batch_dims=follows)
        return self._settle(node, "transpose", (product,), dims=tuple(made.index(c) for c in result))

    def _attention(self, node: Node, target: Any) -> str:
        """``softmax(q @ k^T * scale) @ v``; a positive scale is free."""
        bound = self._bind(node, target, "attention")
        query, key, value = bound["query"], bound["key"], bound["value"]
        if bound.get("attn_mask") is not None or bound.get("is_causal") or node.kwargs.get("enable_gqa"):
            return "attention with a mask stays in float"
        if self._shape(key)[-2] < 2:
            return "attention to a single token stays in float"
        if isinstance(bound.get("dropout_p", 0.0), Ref) or bound.get("dropout_p", 0.0):
            raise UserError(f"{node.label} drops values in eval mode, too; call it with dropout_p=0.0 there")
        factor = self._shape(query)[-1] ** -0.5 if bound.get("scale") is None else bound["scale"]
        if not is_number(factor):
            return "attention with a computed scale stays in float"
        key_shape, rank = self._shape(key), self._rank(key)
        order = (*range(rank - 2), rank - 1, rank - 2)
        flipped = (*key_shape[:-2], key_shape[-1], key_shape[-2])
        own = self.batch_dims.get(key.name, ())
        turned = self._before(node, "transpose", (key,), "keys", flipped, kwargs={"dims": order}, batch_dims=own)
        query_shape = self._shape(query)
        common = torch.broadcast_shapes(query_shape[:-2], key_shape[:-2])  # type: ignore[no-untyped-call]
        scores_shape = (*common, query_shape[-2], key_shape[-2])
        follows = {
            dim + len(scores_shape) - self._rank(operand)
            for operand in (query, key)
            for dim in self.batch_dims.get(operand.name, ())
        }
        scores = self._before(
            node, "matmul", (query, turned), "scores", scores_shape, batch_dims=tuple(sorted(follows))
        )
        scaled = self._times(node, scores, float(factor), "scaled")
        weights = self._before(node, "softmax", (scaled,), "softmax", scores_shape)
        return self._settle(node, "matmul", (weights, value))
