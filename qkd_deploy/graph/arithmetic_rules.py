"""Arithmetic of tensors, numbers and constants.

A factor that is a positive number costs nothing: the codes stay, their scale changes ("rescale"). Other numbers and
constant tensors are quantized like activations, on a grid of their own.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from qkd_deploy.graph import operations
from qkd_deploy.graph.ir import Node, Ref, references
from qkd_deploy.graph.rules import Rules

_ALONG_THE_BATCH = "tensors that are repeated along the batch, or get more dimensions, stay in float"


class ArithmeticRules(Rules):
    """Handlers of sums and products, element by element, and of copies."""

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
        if is_number(two):
            return self._two(node, "add", one, -float(two))
        buffer = self._fixed_tensor(two)
        if buffer is not None:
            return self._two(node, "add", one, self._constant(node, -buffer, "negative"))
        if not self._is_float(two):
            return "a subtraction of integer tensors stays in float"
        return self._two(node, "add", one, self._times(node, self._unexpanded(two), -1.0, "negative"))

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
        constants = self.graph.constants()
        single = [self._unexpanded(operand) for operand in operands]
        if any(operand.name not in constants for operand in single if isinstance(operand, Ref)):
            operands = single
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

    def _unexpanded(self, value: Any) -> Any:
        """A constant instead of its copies for every image; sums and products broadcast it."""
        if isinstance(value, Ref) and (node := self.graph.node(value.name)).kind == "expand":
            source: Ref = node.args[0]
            copied = [dim for dim, size in enumerate(node.kwargs["sizes"]) if size not in (-1, 1)]
            only_batch = all(dim in node.batch_dims for dim in copied)
            return source if only_batch and source.name in self.graph.constants() else value
        return value

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
        sizes: list[Any] = []
        for dim, (old, new) in enumerate(zip((1,) * more + self._shape(source), shape, strict=True)):
            follows = dim in node.batch_dims
            if (
                node.target == "repeat"
                and dim >= more
                and dim - more in batch_dims
                and tuple(given[dim : dim + 1]) != (1,)
            ):
                return _ALONG_THE_BATCH
            if dim >= more and (dim - more in batch_dims if follows else old == new):
                sizes.append(-1)
            elif old != 1 or (follows and (node.target == "expand_as" or dim >= len(given))):
                return self._repeat(node, source, given)
            else:
                sizes.append(given[dim] if follows else new)
        return self._settle(node, "expand", (source,), sizes=tuple(sizes))

    def _repeat(self, node: Node, source: Ref, times: Any) -> str:
        """Whole tensors one behind the other, along one dimension after the other."""
        shape, batch_dims = self._shape(source), self.batch_dims.get(source.name, ())
        plain = node.target == "repeat" and len(times) == len(shape) and all(isinstance(count, int) for count in times)
        if not plain or any(times[d] != 1 for d in batch_dims):
            return _ALONG_THE_BATCH
        repeated = [dim for dim, count in enumerate(times) if count != 1]
        for i, dim in enumerate(repeated):
            options = {"dim": dim, "positions": tuple(range(shape[dim])) * times[dim]}
            if dim == repeated[-1]:
                return self._settle(node, "index", (source,), **options)
            shape = (*shape[:dim], shape[dim] * times[dim], *shape[dim + 1 :])
            batch = {"batch_dims": batch_dims}
            source = self._before(node, "index", (source,), f"repeated_{i}", shape, kwargs=options, **batch)
        return "a copy that changes the tensor stays in float"


def is_number(value: Any) -> bool:
    """Whether a value is a number that the model's code holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
