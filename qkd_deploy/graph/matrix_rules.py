"""Products of two activations, and attention, which is made of them."""

from __future__ import annotations

from typing import Any

from qkd_deploy.errors import UserError
from qkd_deploy.graph.arithmetic_rules import ArithmeticRules, is_number
from qkd_deploy.graph.ir import Node, Ref


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

    def _attention(self, node: Node, target: Any) -> str:
        """``softmax(q @ k^T * scale) @ v``; a positive scale is free."""
        bound = self._bind(node, target, "attention")
        query, key, value = bound["query"], bound["key"], bound["value"]
        if bound.get("attn_mask") is not None or bound.get("is_causal") or node.kwargs.get("enable_gqa"):
            return "attention with a mask stays in float"
        if isinstance(bound.get("dropout_p", 0.0), Ref) or bound.get("dropout_p", 0.0):
            raise UserError(f"{node.label} drops values in eval mode, too; call it with dropout_p=0.0 there")
        factor = self._shape(query)[-1] ** -0.5 if bound.get("scale") is None else bound["scale"]
        if not is_number(factor):
            return "attention with a computed scale stays in float"
        key_shape, rank = self._shape(key), self._rank(key)
        order = (*range(rank - 2), rank - 1, rank - 2)
        flipped = (*key_shape[:-2], key_shape[-1], key_shape[-2])
        batch = {"batch_dims": self.batch_dims.get(key.name, ())}
        turned = self._before(node, "transpose", (key,), "keys", flipped, kwargs={"dims": order}, **batch)
        scores_shape = (*self._shape(query)[:-1], key_shape[-2])
        scores = self._before(node, "matmul", (query, turned), "scores", scores_shape, **batch)
        scaled = self._times(node, scores, float(factor), "scaled")
        weights = self._before(node, "softmax", (scaled,), "softmax", scores_shape)
        return self._settle(node, "matmul", (weights, value))
