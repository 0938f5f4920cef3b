"""Activation functions beyond ranges: what is one integer kernel, and what is a product of two."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from qkd_deploy.graph.exact.rows import LONGEST_ROW
from qkd_deploy.graph.ir import Node, Ref, references
from qkd_deploy.graph.ops.lowering import Rules

_LAYER_NORM = ("input", "normalized_shape", "weight", "bias", "eps")


class ActivationRules(Rules):
    """Handlers of sigmoids, their products, leaky rectifiers, and functions of rows."""

    def _sigmoid(self, node: Node, target: Any) -> str:
        return self._settle(node, "sigmoid", (node.args[0],))

    def _tanh(self, node: Node, target: Any) -> str:
        return self._settle(node, "tanh", (node.args[0],))

    def _hard_sigmoid(self, node: Node, target: Any) -> str:
        return self._settle(node, "hard_sigmoid", (node.args[0],))

    def _silu(self, node: Node, target: Any) -> str:
        """``x * sigmoid(x)``."""
        return self._gated(node, "sigmoid")

    def _hard_swish(self, node: Node, target: Any) -> str:
        """``x * hard_sigmoid(x)``."""
        return self._gated(node, "hard_sigmoid")

    def _gated(self, node: Node, gate: str) -> str:
        operand = node.args[0]
        opened = self._before(node, gate, (operand,), "gate", node.shape or ())
        return self._settle(node, "mul", (operand, opened))

    def _table(self, node: Node, target: Any) -> str:
        """Any function of single elements; the user's own call is kept."""
        if any(references((node.args[1:], node.kwargs))) or not self._is_activation(node.args[0]):
            return "a function of several tensors has no integer kernel here"
        node.kind, node.reason = "table", ""
        return ""

    def _softmax(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "functional_softmax" if target is F.softmax else "softmax")
        operand, shape, dim = node.args[0], node.shape or (), bound.get("dim")
        if dim is None or not shape or bound.get("dtype") not in (None, torch.float32, torch.float64):
            return "a softmax of a single number, without a dimension, or in half precision stays in float"
        dim, last = dim % len(shape), len(shape) - 1
        if dim in node.batch_dims or shape[dim] < 2:
            return "a softmax over the batch or over one element stays in float"
        if dim == last:
            return self._settle(node, "softmax", (operand,))
        order = [*range(len(shape))]
        order[dim], order[last] = last, dim
        if last in node.batch_dims:
            return "a softmax beside a batch in the last dimension stays in float"
        moved = tuple(shape[d] for d in order)
        batch, turn = {"batch_dims": node.batch_dims}, {"dims": tuple(order)}
        turned = self._before(node, "transpose", (operand,), "turned", moved, kwargs=turn, **batch)
        shares = self._before(node, "softmax", (turned,), "softmax", moved, **batch)
        return self._settle(node, "transpose", (shares,), **turn)

    def _glu(self, node: Node, target: Any) -> str:
        """The first half times the sigmoid of the second."""
        operand, dim = node.args[0], self._bind(node, target, "glu").get("dim", -1)
        shape, rank = node.shape or (), len(node.shape or ())
        half = shape[dim]
        if dim % rank in node.batch_dims:
            return "a gate along the batch stays in float"
        values, gates = (
            self._before(
                node, "slice", (operand,), suffix, shape,
                kwargs={"ranges": ((dim % rank, start, start + half, 1),)}, batch_dims=node.batch_dims,
            )
            for suffix, start in (("values", 0), ("gates", half))
        )  # fmt: skip
        opened = self._before(node, "sigmoid", (gates,), "gate", shape)
        return self._settle(node, "mul", (values, opened))

    def _layer_norm(self, node: Node, target: Any) -> str:
        bound = {**dict(zip(_LAYER_NORM, node.args, strict=False)), **node.kwargs}
        if isinstance(target, nn.LayerNorm):
            bound.update(normalized_shape=target.normalized_shape, eps=target.eps)
        row = (node.shape or ())[-1:]
        if tuple(bound["normalized_shape"]) != row or row[0] > LONGEST_ROW:
            return (
                f"a LayerNorm over more than the last dimension, or over more than {LONGEST_ROW} values, stays in float"
            )
        if self._is_activation(bound.get("weight")) or self._is_activation(bound.get("bias")):
            return "a LayerNorm whose gain or offset is computed stays in float"
        if isinstance(target, nn.LayerNorm):
            gain, offset = (self._parameter(node, target, name) for name in ("weight", "bias"))
        else:
            gain = self._own_constant(node, bound.get("weight"), "gain")
            offset = self._own_constant(node, bound.get("bias"), "offset")
        return self._settle(node, "layer_norm", (node.args[0], gain, offset), eps=float(bound.get("eps", 1e-5)))

    def _parameter(self, node: Node, module: nn.Module, name: str) -> Ref | None:
        """A constant node for a parameter of the module that a node calls; None where it has none."""
        value = getattr(module, name)
        shape = None if value is None else tuple(value.shape)
        path = f"{node.module}.{name}"
        return None if shape is None else self._before(node, "constant", (), name, shape, target=path)

    def _leaky_relu(self, node: Node, target: Any) -> str:
        operand, slope = node.args[0], self._slope(node, target)
        if self._is_activation(slope):
            return "a rectifier whose slopes are computed stays in float"
        count = math.prod(self._shape(slope))
        if not isinstance(slope, Ref) or count == 1:
            return self._settle(node, "leaky_relu", (operand, self._own_constant(node, slope, "own_slope")))
        return self._per_channel_slopes(node, operand, slope, count)

    def _own_constant(self, node: Node, value: Any, suffix: str) -> Any:
        """A constant that nobody else reads: it stays in float, while other readers may need its codes."""
        if not isinstance(value, Ref):
            return value
        return self._before(node, "constant", (), suffix, self._shape(value), target=self.graph.node(value.name).target)

    def _slope(self, node: Node, target: Any) -> Any:
        """The slope below zero: a number, or the constant that holds it."""
        if isinstance(target, nn.PReLU):
            return self._parameter(node, target, "weight")
        if isinstance(target, nn.LeakyReLU):
            return float(target.negative_slope)
        named = node.kwargs.get("negative_slope", node.kwargs.get("weight"))
        return node.args[1] if len(node.args) > 1 else 0.01 if named is None else named

    def _per_channel_slopes(self, node: Node, operand: Ref, slope: Ref, channels: int) -> str:
        """``max(x, 0) + slope * min(x, 0)``."""
        shape = node.shape or ()
        column = (channels, *(1 for _ in shape[2:]))
        slopes = self._before(node, "reshape", (slope, column), "slopes", column, target=torch.reshape)
        below = self._before(node, "clip", (operand,), "below", shape, clip=(float("-inf"), 0.0))
        scaled = self._before(node, "mul", (below, slopes), "scaled", shape)
        above = self._before(node, "clip", (operand,), "above", shape, clip=(0.0, float("inf")))
        return self._settle(node, "add", (above, scaled))
