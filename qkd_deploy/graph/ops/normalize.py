"""One spelling for every operation: fx nodes become kinds of the contract table with canonical arguments.

A handler takes a raw node and its bound arguments and rewrites the node in place, or returns the sentence why this use
of the operation stays in float.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from qkd_deploy.errors import UserError
from qkd_deploy.graph.ir import Graph, Node, Ref, references, substitute
from qkd_deploy.graph.ops import contract
from qkd_deploy.graph.ops.activations import ActivationRules
from qkd_deploy.graph.ops.concat import ConcatenationRules
from qkd_deploy.graph.ops.copying import CopyingRules
from qkd_deploy.graph.ops.functional_layers import FunctionalRules
from qkd_deploy.graph.ops.matmul import MatrixRules
from qkd_deploy.graph.ops.pooling import PoolingRules
from qkd_deploy.graph.ops.spatial import SpatialRules
from qkd_deploy.graph.trace.derived_modules import LAYERS
from qkd_deploy.graph.trace.in_place import out_of_place, switch_off


class Normalizer(
    ActivationRules, ConcatenationRules, CopyingRules, FunctionalRules, MatrixRules, PoolingRules, SpatialRules
):
    """Rewrites the nodes of one raw graph."""

    def run(self) -> Graph:
        """Give every node its kind, canonical arguments and shape; drop identities and computed constants."""
        self._fold_fixed()
        self.in_place = switch_off(self.model)
        for node in list(self.graph.nodes):
            node.shape = self.recorder.shapes.get(node.name)
            node.batch_dims = self.batch_dims.get(node.name, ())
            node.dtype = self.recorder.dtypes.get(node.name, torch.float32)
            if node.kind not in ("input", "constant"):
                self._classify(node)
        self._prune()
        self._require_fixed_sizes()
        return self.graph

    def _require_fixed_sizes(self) -> None:
        """Refuse operations in float that are told the batch size: the exporter translates them one by one, without it.

        Raises:
            UserError: such an operation; names it.
        """
        sizes = {node.name for node in self.graph.nodes if node.kind == "python"}
        for node in self.graph.nodes:
            if node.kind == "float" and sizes & set(node.inputs):
                kind = type(self.model.get_submodule(node.module)).__name__
                leaf = f"pass leaf_modules=({kind},) to keep that module as one step in float"
                name, line = node.label.rpartition(".")[2], self.recorder.lines.get(node.name)
                raise UserError(
                    f"{node.module or 'the network'} ({kind}) gives the batch size to {name} at {line}, which stays in "
                    "float and could then not be exported; let it make one sample and broadcast, or "
                    + (leaf if node.module else "move it into a module of its own and pass that class in leaf_modules")
                )

    def _prune(self) -> None:
        """Drop what no output needs; inputs stay, because callers pass them."""
        needed = set(self.graph.outputs())
        for node in reversed(self.graph.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        self.graph.nodes[:] = [node for node in self.graph.nodes if node.name in needed or node.kind == "input"]

    def _fold_fixed(self) -> None:
        """Sizes and numbers that do not depend on the batch become literals: ``avg_pool2d(x, x.size(3))``."""
        fixed = {name: value for name, value in self.recorder.fixed.items() if name not in self.graph.outputs()}

        def literal(ref: Ref) -> Any:
            return fixed.get(ref.name, ref)

        self.graph.nodes[:] = [node for node in self.graph.nodes if node.name not in fixed or node.kind == "input"]
        for node in self.graph.nodes:
            node.args, node.kwargs = substitute((node.args, node.kwargs), literal)

    def _classify(self, node: Node) -> None:
        raw_kind = node.kind
        if node.name in self.recorder.python:
            node.kind = "python"
            return
        if not node.args and "input" in node.kwargs:
            node.args = (node.kwargs.pop("input"),)
        in_place = out_of_place(node)
        target: Any = node.target
        if raw_kind == "call_module":
            in_place = str(node.target) in self.in_place
            node.module = str(node.target)
            target = self.model.get_submodule(str(node.target))
            _require_own_weight(node.module, target)
            if node.module in self.mode_leaves and self.recorder.unchanged.get(node.name):
                node.kind = "dropout"
                return
        kind = "copy" if self._is_neutral(node, target) else contract.TORCH_OPS.get(contract.torch_key(target))
        node.kind, node.reason = "float", contract.float_reason(target)
        if kind == "identity":
            self._drop(node)
        elif kind is not None and node.shape is not None:
            handler: Callable[[Node, Any], str] = getattr(self, f"_{kind}")
            reason = handler(node, target)
            if reason:
                node.kind, node.reason = "float", reason
        elif node.shape is not None:
            self._make_once(node)
        if in_place:
            self._read_result(node)

    def _make_once(self, node: Node) -> None:
        """What sizes alone make, equal for all images, is a constant that is repeated: ``torch.zeros(batch, 8)``."""
        if node.method or not callable(node.target) or not self._is_float(Ref(node.name)):
            return
        # read once, the number of images can only be the size: read again, the values may depend on it
        if len(node.batch_dims) != 1 or len(node.inputs) != 1 or node.inputs[0] not in self.recorder.python:
            return
        images = self.recorder.python[node.inputs[0]]
        args, kwargs = substitute((node.args, node.kwargs), lambda ref: images)
        made, dim = node.target(*args, **kwargs), node.batch_dims[0]
        one = made.narrow(dim, 0, 1)
        if made.shape[dim] == images and torch.equal(one.expand_as(made), made):
            sizes = tuple(Ref(node.inputs[0]) if d == dim else -1 for d in range(made.dim()))
            self._settle(node, "expand", (self._constant(node, one, "one"),), sizes=sizes)

    def _is_neutral(self, node: Node, target: Any) -> bool:
        """Whether it is ``x * 1``, ``x + 0`` and the like."""
        neutral = contract.NEUTRAL.get(contract.torch_key(target))
        if neutral is None or len(node.args) != 2 or node.kwargs:
            return False
        return isinstance(node.args[1], (int, float)) and node.args[1] == neutral

    def _drop(self, node: Node) -> None:
        self.graph.replace(node.name, node.args[0].name)
        self.graph.nodes.remove(node)

    def _read_result(self, node: Node) -> None:
        """After an in-place operation, later readers of its operand see its result."""
        if isinstance(node.args[0], Ref):
            later = {n.name for n in self.graph.nodes[self.graph.nodes.index(node) + 1 :]}
            self.graph.replace(node.args[0].name, node.name, only=later)

    # -- layers ------------------------------------------------------------------------------------------------------

    def _conv(self, node: Node, target: nn.Conv1d | nn.Conv2d) -> str:
        if target.padding_mode != "zeros":
            return f"padding mode {target.padding_mode!r} has no integer kernel"
        if self._rank(node.args[0]) != target.weight.dim():
            return "a convolution of an unbatched tensor has no integer kernel"
        return self._layer(node, "conv")

    def _linear(self, node: Node, target: nn.Linear) -> str:
        return self._layer(node, "linear")

    def _layer(self, node: Node, kind: str) -> str:
        path = str(node.target)
        self._settle(node, kind, (node.args[0],))
        node.target = path
        return ""

    def _batch_norm(self, node: Node, target: nn.Module) -> str:
        path, reason = str(node.target), node.reason
        if not getattr(target, "track_running_stats", True) or getattr(target, "running_mean", None) is None:
            return "a batch norm without running statistics depends on the batch"
        self._settle(node, "batch_norm", (node.args[0],))
        node.target, node.reason = path, reason
        return ""

    # -- element-wise ------------------------------------------------------------------------------------------------

    def _clip(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "clip")
        limits = contract.CLIP_RANGES.get(contract.torch_key(target))
        if limits is None:
            name = target if isinstance(target, str) else getattr(target, "__name__", "")
            if name.startswith("clamp_max") and len(node.args) > 1:
                bound["max"] = bound.pop("min")
            low, high = bound.get("min"), bound.get("max")
            if isinstance(low, Ref) or isinstance(high, Ref):
                return "a clamp whose bounds are tensors stays in float"
            limits = (float("-inf") if low is None else float(low), float("inf") if high is None else float(high))
        if limits[0] > 0 or limits[1] < 0:
            bounds = {key: limit for key, limit in zip(("min", "max"), limits, strict=True) if math.isfinite(limit)}
            node.args, node.kwargs, node.target, node.method = (node.args[0],), bounds, torch.clamp, False
            return "a clamp to a range without zero has no place on a quantization grid"
        self._settle(node, "clip", (bound.get("input", node.args[0]),))
        node.clip = limits
        return ""

    def _dropout(self, node: Node, target: Any) -> str:
        if isinstance(target, nn.Module):
            node.kind, node.reason = "dropout", ""
            return ""
        # traced in eval mode: a dropout that is active here is random in the deployed model, too
        active = node.args[2] if len(node.args) > 2 else node.kwargs.get("training", target is not torch.dropout)
        if active is not False:
            raise UserError(f"{node.label} drops values in eval mode, too; call it with training=self.training")
        rate = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        if isinstance(rate, Ref):
            return "a dropout whose rate is a tensor cannot be prepared"
        node.kind, node.args, node.kwargs, node.reason = "dropout", (node.args[0],), {"p": float(rate)}, ""
        return ""

    # -- data movement: acts on codes, so the user's own call is kept ------------------------------------------------

    def _reshape(self, node: Node, target: Any) -> str:
        if node.method and node.target == "view":
            node.target = "reshape"  # codes may lie in another order in memory than the user's tensor did
        node.kind, node.reason = "reshape", ""
        return ""

    def _reshape_like(self, node: Node, target: Any) -> str:
        """The shape of another tensor, as far as it does not depend on the batch."""
        self._settle(node, "reshape", (node.args[0], node.open_shape))
        node.target = torch.reshape
        return ""

    def _transpose(self, node: Node, target: Any) -> str:
        rank = self._rank(node.args[0])
        if rank < 0 or any(references((node.args[1:], node.kwargs))):
            return "a transposition by computed dimensions stays in float"
        name = target if isinstance(target, str) else target.__name__
        told_apart = torch.empty(tuple(range(rank)), device="meta")  # dimension d has size d
        moved = getattr(told_apart, name)(*node.args[1:], **node.kwargs)
        return self._settle(node, "transpose", (node.args[0],), dims=tuple(moved.shape))

    def _attribute(self, node: Node, target: Any) -> str:
        """``x.mT``, the transposed matrices, and ``x.data``, the tensor cut off from its gradient."""
        operand, name = node.args
        rank = self._rank(operand)
        if name == "data" and self._is_float(operand):
            node.kind, node.reason = "reshape", ""
            return ""
        if name != "mT" or rank < 2:
            return node.reason
        return self._settle(node, "transpose", (operand,), dims=(*range(rank - 2), rank - 1, rank - 2))


def _require_own_weight(path: str, module: nn.Module) -> None:
    """Refuse layers whose weight another tensor makes (weight norm, spectral norm): no quantizer could train it.

    Raises:
        UserError: such a layer; names it.
    """
    if isinstance(module, LAYERS) and not isinstance(module._parameters.get("weight"), nn.Parameter):
        raise UserError(
            f"{path} computes its weight from other tensors (weight norm or another parametrization); fix it first "
            "with torch.nn.utils.parametrize.remove_parametrizations"
        )
