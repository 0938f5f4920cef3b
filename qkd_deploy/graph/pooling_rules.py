"""Pooling in all its spellings: max, average, adaptive and global pools, and means over the spatial dimensions."""

from __future__ import annotations

from typing import Any

import torch

from qkd_deploy.errors import UserError
from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.rules import Rules


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
        if rank not in (3, 4) or dims != list(range(2, rank)) or bound.get("dtype") is not None:
            return "a mean over anything but all spatial dimensions has no integer kernel"
        shape = node.shape
        self._settle(node, "global_avg_pool", (operand,))
        if not bound.get("keepdim", False):
            pooled = Node(
                f"{node.name}_pooled", "global_avg_pool", (operand,), label=node.label, module=node.module,
                shape=(*(shape or ()), *(1 for _ in dims)), batch_dims=node.batch_dims,
            )  # fmt: skip
            node.label += ".flatten"
            self.graph.nodes.insert(self.graph.nodes.index(node), pooled)
            node.kind, node.args, node.target = "reshape", (Ref(pooled.name), 1), torch.flatten
        return ""


def _tuple(value: Any, count: int) -> tuple[int, ...]:
    """An int or sequence as a tuple of ``count`` ints."""
    if isinstance(value, (tuple, list)):
        return tuple(int(v) for v in value) if len(value) == count else tuple(int(value[0]) for _ in range(count))
    return (int(value),) * count
