"""Arithmetic of tensors, numbers and constants.

A factor that is a positive number costs nothing: the codes stay, their scale changes ("rescale"). Other numbers and
constant tensors are quantized like activations, on a grid of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.ops import operations
from qkd_deploy.graph.ops.lowering import Rules


class ArithmeticRules(Rules):
    """Handlers of sums and products, element by element."""

    def _add(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "two")
        one, two, factor = bound.get("input"), bound.get("other"), bound.get("alpha", 1)
        if factor != 1:
            if not is_number(factor) or not factor or not self._is_activation(two):
                return "a sum with a factor that is zero or computed stays in float"
            assert isinstance(two, Ref)
            two = self._times(node, two, float(factor), "scaled")
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
        one, two = self._once((one, two))
        if is_number(two):
            return self._two(node, "add", one, -float(two))
        buffer = self._fixed_tensor(two)
        if buffer is not None:
            return self._two(node, "add", one, self._constant(node, -buffer, "negative"))
        if not self._is_float(two):
            return "a subtraction of integer tensors stays in float"
        return self._two(node, "add", one, self._times(node, two, -1.0, "negative"))

    def _neg(self, node: Node, target: Any) -> str:
        return self._multiply_by(node, node.args[0], -1.0)

    def _div(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "two")
        one, two = bound.get("input"), bound.get("other")
        if node.kwargs.get("rounding_mode") is not None:
            return "a division that rounds stays in float"
        if is_number(two) and two:
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
            if is_number(operand):
                operand = self._constant(node, torch.tensor(float(operand)), suffix)
            operands.append(operand)
        operands = self._once(operands)
        word = {"add": "an addition", "mul": "a product"}[kind]
        if not all(self._is_float(operand) for operand in operands):
            return f"{word} of integer tensors stays in float"
        if not any(self._is_activation(operand) for operand in operands):
            return f"{word} of constants stays in float"
        if self._is_activation(operands[1]) and not self._is_activation(operands[0]):
            operands.reverse()
        return self._settle(node, kind, tuple(operands))

    def _times(self, node: Node, operand: Ref, factor: float, suffix: str) -> Ref:
        """``operand * factor`` in front of ``node``: another scale, or a product with a constant."""
        shape = self._shape(operand)
        if factor > 0:
            return self._before(node, "rescale", (operand,), suffix, shape, kwargs={"factor": factor})
        number = self._constant(node, torch.tensor(factor), f"{suffix}_factor")
        return self._before(node, "mul", (operand, number), suffix, shape)

    def _once(self, operands: Sequence[Any]) -> list[Any]:
        """Constants instead of their copies for every image, where another operand brings the images."""
        single = [self._unexpanded(operand) for operand in operands]
        if single == list(operands):
            return single
        constants = self.graph.constants()
        brought = any(isinstance(operand, Ref) and operand.name not in constants for operand in single)
        return single if brought else list(operands)

    def _unexpanded(self, value: Any) -> Any:
        if isinstance(value, Ref) and (node := self.graph.node(value.name)).kind == "expand":
            source: Ref = node.args[0]
            copied = [dim for dim, size in enumerate(node.kwargs["sizes"]) if size not in (-1, 1)]
            only_batch = all(dim in node.batch_dims for dim in copied)
            return source if only_batch and source.name in self.graph.constants() else value
        return value


def is_number(value: Any) -> bool:
    """Whether a value is a number that the model's code holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
