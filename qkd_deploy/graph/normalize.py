"""One spelling for every operation: fx nodes become kinds of the contract table with canonical arguments.

A handler takes a raw node and its bound arguments and rewrites the node in place, or returns the sentence why this use
of the operation stays in float.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from qkd_deploy.graph import contract
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.trace import ShapeRecorder

_PARAMETERS: dict[str, tuple[str, ...]] = {
    "max_pool": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg_pool": ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "adaptive_avg_pool": ("input", "output_size"),
    "adaptive_max_pool": ("input", "output_size", "return_indices"),
    "mean": ("input", "dim", "keepdim", "dtype"),
    "concat": ("tensors", "dim"),
    "add": ("input", "other", "alpha"),
    "clip": ("input", "min", "max"),
}
"""Names of positional arguments, for functions that tell no signature."""

_ALIASES = {"axis": "dim", "min_val": "min", "max_val": "max"}


class Normalizer:
    """Rewrites the nodes of one raw graph."""

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        recorder: ShapeRecorder,
        batch_dims: dict[str, tuple[int, ...]],
        mode_leaves: set[str],
    ) -> None:
        """``mode_leaves`` are modules kept whole because they read ``self.training``."""
        self.model, self.graph, self.recorder = model, graph, recorder
        self.batch_dims, self.mode_leaves = batch_dims, mode_leaves

    def run(self) -> Graph:
        """Give every node its kind, canonical arguments and shape; drop identities."""
        for node in list(self.graph.nodes):
            node.shape = self.recorder.shapes.get(node.name)
            node.batch_dims = self.batch_dims.get(node.name, ())
            if node.kind not in ("input", "constant"):
                self._classify(node)
        return self.graph

    def _classify(self, node: Node) -> None:
        raw_kind = node.kind
        if node.name in self.recorder.python:
            node.kind = "python"
            return
        target: Any = node.target
        if raw_kind == "call_module":
            node.module = str(node.target)
            target = self.model.get_submodule(str(node.target))
            if node.module in self.mode_leaves and self.recorder.unchanged.get(node.name):
                node.kind = "dropout"
                return
        kind = contract.SPELLINGS.get(contract.spelling(target))
        node.kind, node.reason = "float", contract.float_reason(target)
        if kind == "identity":
            self._drop(node)
        elif kind is not None and node.shape is not None:
            handler: Callable[[Node, Any], str] = getattr(self, f"_{kind}")
            reason = handler(node, target)
            if reason:
                node.kind, node.reason = "float", reason
        if node.kind == "float" and contract.spelling(target) in contract.IN_PLACE:
            self._read_result(node)

    def _drop(self, node: Node) -> None:
        self.graph.replace(node.name, node.args[0].name)
        self.graph.nodes.remove(node)

    def _read_result(self, node: Node) -> None:
        """After an in-place operation, later readers of its operand see its result."""
        if isinstance(node.args[0], Ref):
            later = {n.name for n in self.graph.nodes[self.graph.nodes.index(node) + 1 :]}
            self.graph.replace(node.args[0].name, node.name, only=later)

    def _bind(self, node: Node, target: Any, kind: str) -> dict[str, Any]:
        """Arguments by name; a module's attributes count as arguments."""
        names = _PARAMETERS[kind]
        bound = dict(zip(names, node.args, strict=False))
        bound.update({_ALIASES.get(key, key): value for key, value in node.kwargs.items()})
        if isinstance(target, nn.Module):
            bound.update({_ALIASES.get(n, n): v for n, v in vars(target).items() if _ALIASES.get(n, n) in names})
        elif target is torch.nn.functional.hardtanh or target is torch.nn.functional.hardtanh_:
            bound = {"min": -1.0, "max": 1.0, **bound}
        return bound

    def _settle(self, node: Node, kind: str, args: tuple[Any, ...], **kwargs: Any) -> str:
        node.kind, node.args, node.kwargs, node.reason = kind, args, kwargs, ""
        node.target, node.method = None, False
        return ""

    def _rank(self, value: Any) -> int:
        shape = self.recorder.shapes.get(value.name) if isinstance(value, Ref) else None
        return len(shape) if shape is not None else -1

    def _is_activation(self, value: Any) -> bool:
        """Whether an operand is a float tensor that the network computes."""
        floating = isinstance(value, Ref) and self.recorder.floating.get(value.name, False)
        return floating and self.graph.node(value.name).kind != "constant"

    # -- layers -------------------------------------------------------------------------------------------------------

    def _layer(self, node: Node, target: nn.Module) -> str:
        if getattr(target, "padding_mode", "zeros") != "zeros":
            return f"padding mode {target.padding_mode!r} has no integer kernel"
        if not isinstance(target, nn.Linear) and self._rank(node.args[0]) != target.weight.dim():  # type: ignore[operator]
            return "a convolution of an unbatched tensor has no integer kernel"
        path = str(node.target)
        self._settle(node, "layer", (node.args[0],))
        node.target = path
        return ""

    def _batch_norm(self, node: Node, target: nn.Module) -> str:
        path, reason = str(node.target), node.reason
        if not getattr(target, "track_running_stats", True) or getattr(target, "running_mean", None) is None:
            return "a batch norm without running statistics depends on the batch"
        self._settle(node, "batch_norm", (node.args[0],))
        node.target, node.reason = path, reason
        return ""

    # -- element-wise ---------------------------------------------------------------------------------------------------

    def _add(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "add")
        operands = (bound.get("input"), bound.get("other"))
        shapes = [self.recorder.shapes.get(o.name) if isinstance(o, Ref) else None for o in operands]
        if bound.get("alpha", 1) != 1 or None in shapes:
            return "ONNX Runtime adds only two tensors in integers, without a factor"
        if shapes[0] != shapes[1]:
            return "an addition that broadcasts its operands stays in float"
        if not all(self._is_activation(operand) for operand in operands):
            return "an addition of constants or integer tensors stays in float"
        self._settle(node, "add", operands)
        if target in contract.IN_PLACE:
            self._read_result(node)
        return ""

    def _clip(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "clip")
        limits = contract.CLIP_RANGES.get(contract.spelling(target))
        if limits is None:
            low, high = bound.get("min"), bound.get("max")
            if isinstance(low, Ref) or isinstance(high, Ref):
                return "a clamp whose bounds are tensors stays in float"
            limits = (float("-inf") if low is None else float(low), float("inf") if high is None else float(high))
        if limits[0] > 0 or limits[1] < 0:
            return "a clamp to a range without zero has no place on a quantization grid"
        in_place = target in contract.IN_PLACE or getattr(target, "inplace", False) or node.kwargs.get("inplace", False)
        self._settle(node, "clip", (bound.get("input", node.args[0]),))
        node.clip = limits
        if in_place:
            self._read_result(node)
        return ""

    def _concat(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "concat")
        tensors = bound["tensors"]
        if not all(self._is_activation(t) for t in tensors):
            return "a concatenation with constants or integer tensors stays in float"
        return self._settle(node, "concat", (list(tensors),), dim=bound.get("dim", 0) % len(node.shape or ()))

    def _dropout(self, node: Node, target: Any) -> str:
        if isinstance(target, nn.Module):
            node.kind, node.reason = "dropout", ""
            return ""
        rate = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        if isinstance(rate, Ref):
            return "a dropout whose rate is a tensor cannot be prepared"
        node.kind, node.args, node.kwargs, node.reason = "dropout", (node.args[0],), {"p": float(rate)}, ""
        return ""

    # -- pooling -------------------------------------------------------------------------------------------------------

    def _max_pool(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "max_pool")
        if bound.get("return_indices"):
            return "a max-pool that returns indices has no integer kernel"
        spatial = len(node.shape or ()) - 2
        kernel = _tuple(bound["kernel_size"], spatial)
        return self._settle(
            node,
            "max_pool",
            (bound["input"] if "input" in bound else node.args[0],),
            kernel_size=kernel,
            stride=_tuple(bound.get("stride") or kernel, spatial),
            padding=_tuple(bound.get("padding", 0), spatial),
            dilation=_tuple(bound.get("dilation", 1), spatial),
            ceil_mode=bool(bound.get("ceil_mode", False)),
        )

    def _avg_pool(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "avg_pool")
        if bound.get("divisor_override"):
            return "an average pool with its own divisor has no integer kernel"
        kernel = _tuple(bound["kernel_size"], 2)
        padding = _tuple(bound.get("padding", 0), 2)
        include = bool(bound.get("count_include_pad", True))
        stride = _tuple(bound.get("stride") or kernel, 2)
        before = self.recorder.shapes[node.args[0].name] or ()
        after = [(size + 2 * p - k) // s + 1 for size, p, k, s in zip(before[2:], padding, kernel, stride, strict=True)]
        if list((node.shape or ())[2:]) != after or (any(padding) and not include):
            return "an average pool whose windows hold different numbers of elements stays in float"
        return self._settle(
            node,
            "avg_pool",
            (bound.get("input", node.args[0]),),
            kernel_size=kernel,
            stride=stride,
            padding=padding,
        )

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
        if len(after) != 4 or any(a % b for a, b in zip(before[2:], after[2:], strict=True)):
            return f"an adaptive {word} pool whose output size does not divide its input size has windows of several sizes"
        kernel = tuple(a // b for a, b in zip(before[2:], after[2:], strict=True))
        extra = {"dilation": (1, 1), "ceil_mode": False} if kind == "max_pool" else {}
        return self._settle(node, kind, (node.args[0],), kernel_size=kernel, stride=kernel, padding=(0, 0), **extra)

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

    # -- data movement: acts on codes, so the user's own call is kept ----------------------------------------------------

    def _reshape(self, node: Node, target: Any) -> str:
        node.kind, node.reason = "reshape", ""
        return ""

    def _transpose(self, node: Node, target: Any) -> str:
        rank = self._rank(node.args[0])
        arguments = [*node.args[1:], *node.kwargs.values()]
        flat = list(arguments[0]) if arguments and isinstance(arguments[0], (list, tuple)) else arguments
        if rank < 0 or any(not isinstance(a, int) for a in flat):
            return "a transposition by computed dimensions stays in float"
        name = target if isinstance(target, str) else target.__name__
        order = [d % rank for d in flat]
        if name == "transpose":
            first, second = order
            order = list(range(rank))
            order[first], order[second] = second, first
        return self._settle(node, "transpose", (node.args[0],), dims=tuple(order))


def _tuple(value: Any, count: int) -> tuple[int, ...]:
    """An int or sequence as a tuple of ``count`` ints."""
    if isinstance(value, (tuple, list)):
        return tuple(int(v) for v in value) if len(value) == count else tuple(int(value[0]) for _ in range(count))
    return (int(value),) * count


