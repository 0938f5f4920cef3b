"""Padding, nearest upsampling and the shuffles: data movement on codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from qkd_deploy.errors import UserError
from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.ops.lowering import Rules

_PADDING_MODULES: dict[type[nn.Module], str] = {
    nn.ReflectionPad1d: "reflect",
    nn.ReflectionPad2d: "reflect",
    nn.ReplicationPad1d: "replicate",
    nn.ReplicationPad2d: "replicate",
}


class SpatialRules(Rules):
    """Handlers of padding, resizing and shuffling."""

    def _pad(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "pad")
        mode, flat = _PADDING_MODULES.get(type(target), bound.get("mode", "constant")), bound["pad"]
        if isinstance(flat, Ref) or any(not isinstance(amount, int) or amount < 0 for amount in flat):
            return "padding by computed or negative amounts stays in float"
        if mode not in ("constant", "reflect", "replicate") or (mode == "constant" and bound.get("value")):
            return "padding with other values than zeros or the image's own stays in float"
        pairs = list(zip(flat[::2], flat[1::2], strict=True))[::-1]
        amounts = ((0, 0),) * (self._rank(node.args[0]) - len(pairs)) + tuple(pairs)
        if any(sum(amounts[dim]) for dim in self.batch_dims.get(node.args[0].name, (0,))):
            return "padding along the batch stays in float"
        return self._settle(node, "pad", (node.args[0],), amounts=amounts, mode=mode)

    def _resize(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "resize")
        before, after = self._shape(node.args[0])[2:], (node.shape or ())[2:]
        whole = all(new % old == 0 for old, new in zip(before, after, strict=True))
        if bound.get("mode", "nearest") not in ("nearest", "nearest-exact") or not whole or len(after) not in (1, 2):
            return "only nearest upsampling by whole factors runs in integers"
        factors = tuple(new // old for old, new in zip(before, after, strict=True))
        given = None if bound.get("recompute_scale_factor") else bound.get("scale_factor")
        if isinstance(given, (int, float)):
            given = (given,) * len(factors)
        if given is not None and tuple(given) != factors:  # 2.1 may double the size, but not every pixel
            raise UserError(
                f"{node.label} resizes by factors that its output size only comes near to, which PyTorch and ONNX do "
                "differently; use recompute_scale_factor=True or size="
            )
        return self._settle(node, "resize", (node.args[0],), factors=factors)

    def _pixel_shuffle(self, node: Node, target: Any) -> str:
        if self._rank(node.args[0]) != 4:
            return "a pixel shuffle of anything but images stays in float"
        r = int(_only_argument(node, target, "upscale_factor"))
        batch, channels, height, width = self._shape(node.args[0])
        split = (batch, channels // r**2, r, r, height, width)
        moved = (batch, channels // r**2, height, r, width, r)
        return self._shuffle(node, split, (0, 1, 4, 2, 5, 3), moved)

    def _pixel_unshuffle(self, node: Node, target: Any) -> str:
        if self._rank(node.args[0]) != 4:
            return "a pixel shuffle of anything but images stays in float"
        r = int(_only_argument(node, target, "downscale_factor"))
        batch, channels, height, width = self._shape(node.args[0])
        split = (batch, channels, height // r, r, width // r, r)
        return self._shuffle(node, split, (0, 1, 3, 5, 2, 4), (batch, channels, r, r, height // r, width // r))

    def _channel_shuffle(self, node: Node, target: Any) -> str:
        groups = int(_only_argument(node, target, "groups"))
        batch, channels, *image = self._shape(node.args[0])
        split = (batch, groups, channels // groups, *image)
        order = (0, 2, 1, *range(3, len(split)))
        return self._shuffle(node, split, order, (batch, channels // groups, groups, *image))

    def _shuffle(self, node: Node, split: tuple[int, ...], order: tuple[int, ...], moved: tuple[int, ...]) -> str:
        """Split dimensions, permute them and join them again."""
        if self.batch_dims.get(node.args[0].name) != (0,):
            return "a shuffle of an unbatched tensor stays in float"
        batch = {"batch_dims": (0,)}
        parts = self._before(
            node, "reshape", (node.args[0], (-1, *split[1:])), "split", split, target=torch.reshape, **batch
        )
        turned = self._before(node, "transpose", (parts,), "permuted", moved, kwargs={"dims": order}, **batch)
        shape = (-1, *(node.shape or ())[1:])
        self._settle(node, "reshape", (turned, shape))
        node.target = torch.reshape
        return ""

    def _roll(self, node: Node, target: Any) -> str:
        bound = self._bind(node, target, "roll")
        shifts, dims = bound["shifts"], bound.get("dims")
        shifts, dims = ((v,) if isinstance(v, int) else tuple(v or ()) for v in (shifts, dims))
        rank, fixed = self._rank(node.args[0]), all(isinstance(v, int) for v in (*shifts, *dims))
        if not dims or not fixed or any(d % rank in self.batch_dims.get(node.args[0].name, (0,)) for d in dims):
            return "rolling along the batch, flattened, or by computed amounts stays in float"
        return self._settle(node, "roll", (node.args[0],), shifts=shifts, dims=tuple(d % rank for d in dims))

    def _stack(self, node: Node, target: Any) -> str:
        """Tensors with a new dimension of one, concatenated along it."""
        bound = self._bind(node, target, "stack")
        shape, tensors = node.shape or (), bound["tensors"]
        dim = bound.get("dim", 0) % len(shape)
        if isinstance(tensors, Ref) or not all(self._is_activation(part) for part in tensors) or dim == 0:
            return "stacking along the batch, or of constants, stays in float"
        single = (*shape[:dim], 1, *shape[dim + 1 :])
        parts = [
            self._before(
                node, "reshape", (part, dim), f"part_{i}", single, target=torch.unsqueeze, batch_dims=node.batch_dims
            )
            for i, part in enumerate(tensors)
        ]
        return self._settle(node, "concat", (parts,), dim=dim)


def _only_argument(node: Node, target: Any, attribute: str) -> Any:
    """What a function takes besides its tensor, or a module keeps as an attribute."""
    return getattr(target, attribute) if isinstance(target, nn.Module) else (*node.args[1:], *node.kwargs.values())[0]
