"""Arithmetic of tensors, numbers and constants, and products of two activations.

A factor that is a positive number costs nothing: the codes stay, their scale changes ("rescale"). Other numbers and
constant tensors are quantized like activations, on a grid of their own.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from qkd_deploy.errors import UserError
from qkd_deploy.graph import operations
from qkd_deploy.graph.ir import Node, Ref, references
from qkd_deploy.graph.rules import Rules


class ArithmeticRules(Rules):
    """Handlers of sums, products, concatenations and attention."""

    def _add(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "two")
        one, two, factor = bound.get("input"), bound.get("other"), bound.get("alpha", 1)
        if factor != 1:
            if not isinstance(factor, (int, float)) or factor <= 0 or not self._is_activation(two):
                return "a sum with a factor that is not a positive number stays in float"
            assert isinstance(two, Ref)
            two = self._before(node, "rescale", (two,), "scaled", self._shape(two), kwargs={"factor": float(factor)})
        return self._two(node, "add", one, two)

    def _mul(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "two")
        one, two = bound.get("input"), bound.get("other")
        if isinstance(one, (int, float)):
            one, two = two, one
        return (
            self._multiply_by(node, one, float(two))
            if isinstance(two, (int, float))
            else self._two(node, "mul", one, two)
        )

    def _sub(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "two")
        if bound.get("alpha", 1) != 1:
            return "ONNX Runtime subtracts only two tensors in integers, without a factor"
        return self._subtract(node, bound.get("input"), bound.get("other"))

    def _rsub(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "two")
        return self._subtract(node, bound.get("other"), bound.get("input"))

    def _subtract(self, node: Node, one: Any, two: Any) -> str:
        """``one - two`` as a sum: numbers and fixed constants change their sign, tensors are multiplied by -1."""
        if _is_number(two):
            return self._two(node, "add", one, -float(two))
        buffer = self._fixed_tensor(two)
        if buffer is not None:
            return self._two(node, "add", one, self._constant(node, -buffer, "negative"))
        if not self._is_float(two):
            return "a subtraction of integer tensors stays in float"
        minus = self._constant(node, torch.tensor(-1.0), "minus_one")
        negative = self._before(node, "mul", (self._unexpanded(two), minus), "negative", self._shape(two))
        return self._two(node, "add", one, negative)

    def _neg(self, node: Node, target: Any) -> str:
        return self._multiply_by(node, node.args[0], -1.0)

    def _div(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "two")
        one, two = bound.get("input"), bound.get("other")
        if node.kwargs.get("rounding_mode") is not None:
            return "a division that rounds stays in float"
        if _is_number(two) and two:
            return self._multiply_by(node, one, 1 / float(two))
        buffer = self._fixed_tensor(two)
        if buffer is None or not bool(torch.isfinite(1 / buffer).all()):
            return "ONNX Runtime has no integer Div"
        return self._two(node, "mul", one, self._constant(node, 1 / buffer, "reciprocal"))

    def _multiply_by(self, node: Node, operand: Any, factor: float) -> str:
        if not self._is_activation(operand) or not math.isfinite(factor):
            return "a product of integers or constants stays in float"
        if factor > 0:
            if self._becomes_hard_sigmoid(node, operand, factor):
                return ""
            return self._settle(node, "rescale", (operand,), factor=factor)
        return self._two(node, "mul", operand, factor)

    def _becomes_hard_sigmoid(self, node: Node, operand: Ref, factor: float) -> bool:
        """``relu6(x + 3) / 6``, as it was written before PyTorch had the function."""
        clip = self.graph.node(operand.name)
        if clip.kind != "clip" or clip.clip != (0.0, 6.0) or not math.isclose(factor, 1 / 6, rel_tol=1e-6):
            return False
        shifted = self.graph.node(clip.inputs[0])
        if shifted.kind != "add" or self._number(shifted.args[1]) != 3.0:
            return False
        self._settle(node, "hard_sigmoid", (shifted.args[0],))
        return True

    def _number(self, value: Any) -> float | None:
        """The number that a constant of our own holds."""
        if not isinstance(value, Ref) or self.graph.node(value.name).kind != "constant" or self._shape(value) != ():
            return None
        buffer = self._fixed_tensor(value)
        return None if buffer is None else float(buffer)

    def _fixed_tensor(self, value: Any) -> torch.Tensor | None:
        """The values of a float constant that training does not change; None for everything else."""
        if not self._is_float(value) or self._is_activation(value):
            return None
        found = operations.apply(self.model, self.graph.node(value.name), (), {}, training=False)
        return None if isinstance(found, torch.nn.Parameter) else found

    def _two(self, node: Node, kind: str, one: Any, two: Any) -> str:
        """Settle a sum or product of two tensors; numbers become constants."""
        operands = []
        for operand, suffix in ((one, "left"), (two, "right")):
            if _is_number(operand):
                operand = self._constant(node, torch.tensor(float(operand)), suffix)
            operands.append(self._unexpanded(operand))
        word = {"add": "an addition", "mul": "a product"}[kind]
        if not all(self._is_float(operand) for operand in operands):
            return f"{word} of integer tensors stays in float"
        if not any(self._is_activation(operand) for operand in operands):
            return f"{word} of constants stays in float"
        if self._is_activation(operands[1]) and not self._is_activation(operands[0]):
            operands.reverse()
        return self._settle(node, kind, tuple(operands))

    def _unexpanded(self, value: Any) -> Any:
        """A constant instead of its copies for every image; sums and products broadcast it."""
        if isinstance(value, Ref) and self.graph.node(value.name).kind == "expand":
            return self.graph.node(value.name).args[0]
        return value

    # -- products of two activations ---------------------------------------------------------------------------------

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
        if not _is_number(factor):
            return "attention with a computed scale stays in float"
        key_shape, rank = self._shape(key), self._rank(key)
        order = (*range(rank - 2), rank - 1, rank - 2)
        flipped = (*key_shape[:-2], key_shape[-1], key_shape[-2])
        batch = {"batch_dims": self.batch_dims.get(key.name, ())}
        turned = self._before(node, "transpose", (key,), "keys", flipped, kwargs={"dims": order}, **batch)
        scores_shape = (*self._shape(query)[:-1], key_shape[-2])
        scores = self._before(node, "matmul", (query, turned), "scores", scores_shape, **batch)
        if factor > 0:
            scaled = self._before(node, "rescale", (scores,), "scaled", scores_shape, kwargs={"factor": float(factor)})
        else:
            number = self._constant(node, torch.tensor(float(factor)), "factor")
            scaled = self._before(node, "mul", (scores, number), "scaled", scores_shape)
        weights = self._before(node, "softmax", (scaled,), "softmax", scores_shape)
        return self._settle(node, "matmul", (weights, value))

    # -- concatenations ----------------------------------------------------------------------------------------------

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

    def _copy(self, node: Node, target: Any) -> str:
        """Copies that change nothing, and constants repeated for every image."""
        source = node.args[0]
        if self._is_float(source) and not self._is_activation(source) and self._repeats_for_batch(node, source):
            node.kind, node.reason = "expand", ""
            return ""
        if any(references((node.args[1:], node.kwargs))) or not self.recorder.unchanged.get(node.name):
            return "a copy that changes the tensor stays in float"
        node.kind, node.reason = "reshape", ""
        return ""

    def _repeats_for_batch(self, node: Node, source: Ref) -> bool:
        shape, before = node.shape or (), self._shape(source)
        same_rank = len(shape) == len(before) and bool(node.batch_dims)
        return same_rank and all(
            old == 1 if dim in node.batch_dims else old == new
            for dim, (old, new) in enumerate(zip(before, shape, strict=True))
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
