"""What the rules of ``normalize`` share: binding arguments, settling a node, and what tracing knows about tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.trace.trace import ShapeRecorder

_PARAMETERS: dict[str, tuple[str, ...]] = {
    "max_pool": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg_pool": ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "adaptive_avg_pool": ("input", "output_size"),
    "adaptive_max_pool": ("input", "output_size", "return_indices"),
    "mean": ("input", "dim", "keepdim", "dtype"),
    "narrow": ("input", "dim", "start", "length"),
    "concat": ("tensors", "dim"),
    "two": ("input", "other", "alpha"),
    "pad": ("input", "pad", "mode", "value"),
    "resize": ("input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
    "attention": ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale"),
    "stack": ("tensors", "dim"),
    "roll": ("input", "shifts", "dims"),
    "select": ("input", "dim", "index"),
    "index_select": ("input", "dim", "index"),
    "extreme": ("input", "dim", "keepdim"),
    "repeat_interleave": ("input", "repeats", "dim"),
    "glu": ("input", "dim"),
    "softmax": ("input", "dim", "dtype"),
    "functional_softmax": ("input", "dim", "_stacklevel", "dtype"),
    "clip": ("input", "min", "max"),
}
"""Names of positional arguments, for functions that tell no signature."""

_ALIASES = {"axis": "dim", "keepdims": "keepdim", "min_val": "min", "max_val": "max", "padding": "pad"}


class Rules:
    """The graph that is being rewritten."""

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

    def _bind(self, node: Node, target: Any, kind: str) -> dict[str, Any]:
        """Arguments by name; a module's attributes count as arguments."""
        names = _PARAMETERS[kind]
        bound = dict(zip(names, node.args, strict=False))
        aliases = {alias: name for alias, name in _ALIASES.items() if name in names}
        bound.update({aliases.get(key, key): value for key, value in node.kwargs.items()})
        if isinstance(target, nn.Module):
            bound.update({aliases.get(n, n): v for n, v in vars(target).items() if aliases.get(n, n) in names})
        elif target is torch.nn.functional.hardtanh:
            bound = {"min": -1.0, "max": 1.0, **bound}
        return bound

    def _settle(self, node: Node, kind: str, args: tuple[Any, ...], **kwargs: Any) -> str:
        node.become(kind, args, **kwargs)
        return ""

    def _rank(self, value: Any) -> int:
        shape = self.recorder.shapes.get(value.name) if isinstance(value, Ref) else None
        return len(shape) if shape is not None else -1

    def _is_activation(self, value: Any) -> bool:
        """Whether an operand is a float tensor that the network computes."""
        return self._is_float(value) and self.graph.node(value.name).kind != "constant"

    def _is_float(self, value: Any) -> bool:
        """Whether an operand is a float tensor, computed or constant."""
        dtype = self.recorder.dtypes.get(value.name) if isinstance(value, Ref) else None
        return dtype is not None and dtype.is_floating_point

    def _shape(self, value: Any) -> tuple[int, ...]:
        """Shape of a tensor operand; () for everything else."""
        return (self.recorder.shapes.get(value.name) or ()) if isinstance(value, Ref) else ()

    def _before(
        self,
        node: Node,
        kind: str,
        args: tuple[Any, ...],
        suffix: str,
        shape: tuple[int, ...],
        *,
        batch_dims: tuple[int, ...] = (),
        **fields: Any,
    ) -> Ref:
        """Insert a node in front of another one; returns what it makes.

        ``batch_dims`` are for results of another shape than any operand; ``fields`` are those of ``Node``.
        """
        name = self.graph.unused_name(f"{node.name}_{suffix}")
        like = next((a for a in args if isinstance(a, Ref) and self._shape(a) == shape), None)
        dims = batch_dims if like is None else self.batch_dims.get(like.name, ())
        made = Node(
            name, kind, args, label=f"{node.label}.{suffix}", module=node.module, shape=shape, batch_dims=dims, **fields
        )
        self.graph.insert_before(node, made)
        self.recorder.shapes[name], self.recorder.dtypes[name] = shape, torch.float32
        self.batch_dims[name] = dims
        return Ref(name)

    def _constant(self, node: Node, values: torch.Tensor, suffix: str = "constant") -> Ref:
        """A constant of the network's own, in front of the node that reads it."""
        buffer = f"{node.name}_{suffix}"
        self.model.register_buffer(buffer, values.detach().clone().float(), persistent=False)
        return self._before(node, "constant", (), suffix, tuple(values.shape), target=buffer)
