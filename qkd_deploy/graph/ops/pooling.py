"""Pooling in all its spellings: max, average, adaptive and global pools, and means over the spatial dimensions."""

from __future__ import annotations

import math
from typing import Any

import torch

from qkd_deploy.errors import UserError
from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.ops.lowering import Rules


class PoolingRules(Rules):
    """Handlers of the pooling kinds."""

    def _max_pool(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "max_pool")
        if bound.get("return_indices"):
            return "a max-pool that returns indices has no integer kernel"
        spatial = len(node.shape or ()) - 2
        kernel = _tuple(bound["kernel_size"], spatial)
        return self._settle(
            node,
            "max_pool",
            (node.args[0],),
            kernel_size=kernel,
            stride=_tuple(bound.get("stride") or kernel, spatial),
            padding=_tuple(bound.get("padding", 0), spatial),
            dilation=_tuple(bound.get("dilation", 1), spatial),
            ceil_mode=bool(bound.get("ceil_mode", False)),
        )

    def _avg_pool(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "avg_pool")
        if bound.get("divisor_override"):
            raise UserError(
                f"{node.label} pools with a divisor of its own, which ONNX cannot express; multiply instead"
            )
        spatial = len(node.shape or ()) - 2
        kernel = _tuple(bound["kernel_size"], spatial)
        padding = _tuple(bound.get("padding", 0), spatial)
        stride = _tuple(bound.get("stride") or kernel, spatial)
        before = self.recorder.shapes[node.args[0].name] or ()
        whole = tuple((n + 2 * p - k) // s + 1 for n, p, k, s in zip(before[2:], padding, kernel, stride, strict=True))
        overhang = (node.shape or ())[2:] != whole
        counted = bool(bound.get("count_include_pad", True)) and any(padding)
        options = {"kernel_size": kernel, "stride": stride, "padding": padding}
        if overhang and counted:
            raise UserError(
                f"{node.label} counts padding in windows that reach beyond it, which PyTorch and ONNX do differently; "
                "use count_include_pad=False or ceil_mode=False"
            )
        if overhang or (any(padding) and not counted):
            return self._settle(node, "uneven_avg_pool", (node.args[0],), **options, ceil_mode=overhang)
        return self._settle(node, "avg_pool", (node.args[0],), **options)

    def _adaptive_avg_pool(self, node: Node, target: Any) -> str:
        operand = node.args[0]
        if all(size == 1 for size in (node.shape or ())[2:]):
            return self._settle(node, "global_avg_pool", (operand,))
        return self._fixed_pool(node, "avg_pool", "average")

    def _adaptive_max_pool(self, node: Node, target: Any) -> str:
        if self._bind(node, target, "adaptive_max_pool").get("return_indices"):
            return "a max-pool that returns indices has no integer kernel"
        return self._fixed_pool(node, "max_pool", "max")

    def _fixed_pool(self, node: Node, kind: str, word: str) -> str:
        """An adaptive pool as an ordinary one, where the output size divides the input size."""
        before, after = self.recorder.shapes[node.args[0].name] or (), node.shape or ()
        if len(after) < 3 or any(a % b for a, b in zip(before[2:], after[2:], strict=True)):
            return (
                f"an adaptive {word} pool whose output size does not divide its input size has windows of several sizes"
            )
        kernel = tuple(a // b for a, b in zip(before[2:], after[2:], strict=True))
        ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
        extra = {"dilation": ones, "ceil_mode": False} if kind == "max_pool" else {}
        return self._settle(node, kind, (node.args[0],), kernel_size=kernel, stride=kernel, padding=zeros, **extra)

    def _mean(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "mean")
        operand, dim = bound.get("input"), bound.get("dim")
        rank = self._rank(operand)
        dims = sorted(d % rank for d in (dim if isinstance(dim, (list, tuple)) else [dim])) if dim is not None else []
        batch_dims = self.batch_dims.get(operand.name, ()) if isinstance(operand, Ref) else ()
        if not dims or rank < 2 or batch_dims != (0,) or 0 in dims or bound.get("dtype") is not None:
            return "a mean over the batch, or of everything, has no integer kernel"
        assert isinstance(operand, Ref)
        if dims == list(range(2, rank)) and rank in (3, 4):
            if bound.get("keepdim", False):
                return self._settle(node, "global_avg_pool", (operand,))
            shape = (*self._shape(operand)[:2], *(1 for _ in dims))
            pooled = self._before(node, "global_avg_pool", (operand,), "pooled", shape, batch_dims=(0,))
        else:
            pooled = self._pooled_rows(node, operand, [d for d in range(1, rank) if d not in dims], dims)
        self.graph.node(pooled.name).label = node.label
        node.label += ".flatten"
        self._settle(node, "reshape", (pooled, (-1, *(node.shape or ())[1:])))
        node.target = torch.reshape
        return ""

    def _sum(self, node: Node, target: Any) -> str:
        """The mean, with another scale."""
        bound = self._bind(node, target, "mean")
        operand = bound.get("input")
        if not self._is_float(operand):
            return "a sum of integers stays in float"
        before, after = self._shape(operand), node.shape or ()
        mean = self._before(node, "float", (), "mean", after, batch_dims=node.batch_dims)
        inner = self.graph.node(mean.name)
        inner.args, inner.kwargs = (operand,), {k: v for k, v in bound.items() if k != "input"}
        if self._mean(inner, torch.mean):
            self.graph.remove(inner)
            return "a sum over the batch, or of everything, has no integer kernel"
        return self._settle(node, "rescale", (mean,), factor=math.prod(before) / math.prod(after))

    def _pooled_rows(self, node: Node, operand: Ref, kept: list[int], dims: list[int]) -> Ref:
        """The mean over ``dims`` as a global pool: ``dims`` moved behind the others, all as one channel and one row."""
        sizes = self._shape(operand)
        order = (0, *kept, *dims)
        moved = tuple(sizes[d] for d in order)
        channels, length = math.prod(sizes[d] for d in kept), math.prod(sizes[d] for d in dims)
        rows = (sizes[0], channels, length)
        batch = {"batch_dims": (0,)}
        turned = self._before(node, "transpose", (operand,), "moved", moved, kwargs={"dims": order}, **batch)
        flat = self._before(
            node, "reshape", (turned, (-1, channels, length)), "rows", rows, target=torch.reshape, **batch
        )
        return self._before(node, "global_avg_pool", (flat,), "pooled", (*rows[:2], 1), **batch)


def _tuple(value: Any, count: int) -> tuple[int, ...]:
    """An int or sequence as a tuple of ``count`` ints."""
    if isinstance(value, (tuple, list)):
        return tuple(int(v) for v in value) if len(value) == count else tuple(int(value[0]) for _ in range(count))
    return (int(value),) * count
