"""Movement of elements, windows and concatenation: what does with codes what it does with floats."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from qkd_deploy.export.openvino.context import Drawing, lowest_of
from qkd_deploy.graph.ir import Node, Ref

Mover = Callable[[Drawing, Node, ir.Value], ir.Value]
"""Appends an operation of a value; returns what it makes."""

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
"""PyTorch's names of padding modes, and ONNX's."""


def _reshape(draw: Drawing, node: Node, value: ir.Value) -> ir.Value:
    return draw.do(node, "Reshape", [value, draw.sketch.shape(node.open_shape)])


def _transpose(draw: Drawing, node: Node, value: ir.Value) -> ir.Value:
    return draw.do(node, "Transpose", [value], perm=list(node.kwargs["dims"]))


def _slice(draw: Drawing, node: Node, value: ir.Value) -> ir.Value:
    axes, starts, stops, steps = np.array(node.kwargs["ranges"], np.int64).reshape(-1, 4).T.tolist()
    return draw.do(node, "Slice", [value, *map(draw.sketch.shape, (starts, stops, axes, steps))])


def _index(draw: Drawing, node: Node, value: ir.Value) -> ir.Value:
    given = node.kwargs["positions"]
    positions = draw.values[given.name] if isinstance(given, Ref) else draw.sketch.shape(given)
    return draw.do(node, "Gather", [value, positions], axis=node.kwargs["dim"])


def _expand(draw: Drawing, node: Node, value: ir.Value) -> ir.Value:
    sizes = [1 if dim in node.batch_dims else size for dim, size in enumerate(node.sizes)]
    return draw.do(node, "Expand", [value, draw.sketch.shape(sizes)])


def _pad(draw: Drawing, node: Node, value: ir.Value) -> ir.Value:
    pads = draw.sketch.shape(np.array(node.kwargs["amounts"], np.int64).T.reshape(-1).tolist())
    return draw.do(node, "Pad", [value, pads], mode=_PAD_MODES[node.kwargs["mode"]])


def _border(draw: Drawing, node: Node, value: ir.Value) -> ir.Value:
    """Pad each channel with its own value: the difference from it is padded with zeros."""
    fills = np.array(node.kwargs["values"], np.float32)
    if node.inputs[0] in draw.grids:
        grid = draw.grids[node.inputs[0]]
        fills = np.clip(np.rint(fills / np.float32(float(grid.scale))), grid.lo, grid.hi)
    column = draw.sketch.array(fills.reshape(-1, *[1] * (len(node.sizes) - 2)).astype(np.float32))
    pads = draw.sketch.shape(np.array(node.kwargs["amounts"], np.int64).T.reshape(-1).tolist())
    padded = draw.do(node, "Pad", [draw.do(node, "Sub", [value, column]), pads])
    bordered = draw.do(node, "Add", [padded, column])
    if node.inputs[0] not in draw.grids:
        return bordered
    # the layer behind is an integer kernel where its operand has been rounded, and adds in float elsewhere
    return draw.sketch.fake_quantize(node.name, bordered, lowest_of(draw.grids[node.inputs[0]]))


def _roll(draw: Drawing, node: Node, value: ir.Value) -> ir.Value:
    """Put the end in front of the beginning, dimension by dimension."""
    for shift, dim in zip(node.kwargs["shifts"], node.kwargs["dims"], strict=True):
        size = node.sizes[dim]
        at = (-shift) % size
        bounds = ((at, size), (0, at))
        parts = [
            draw.do(node, "Slice", [value, *(draw.sketch.shape([number]) for number in (start, stop, dim))])
            for start, stop in bounds
        ]
        value = draw.do(node, "Concat", parts, axis=dim)
    return value


def _resize(draw: Drawing, node: Node, value: ir.Value) -> ir.Value:
    scales = draw.sketch.array(np.array([1, 1, *node.kwargs["factors"]], np.float32))
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nothing = draw.sketch.array(np.zeros(0, np.float32))
    return draw.do(node, "Resize", [value, nothing, scales], **modes)


def _max_pool(draw: Drawing, node: Node, value: ir.Value) -> ir.Value:
    options = node.kwargs
    windows = {"kernel_shape": options["kernel_size"], "strides": options["stride"], "dilations": options["dilation"]}
    lists = {key: list(sizes) for key, sizes in windows.items()}
    return draw.do(
        node, "MaxPool", [value], **lists, pads=list(options["padding"]) * 2, ceil_mode=int(options["ceil_mode"])
    )


def _extreme(operator: str) -> Mover:
    def function(draw: Drawing, node: Node, value: ir.Value) -> ir.Value:
        axes = draw.sketch.shape(node.kwargs["dim"])
        return draw.do(node, operator, [value, axes], keepdims=int(node.kwargs["keepdim"]))

    return function


def _same(draw: Drawing, node: Node, value: ir.Value) -> ir.Value:
    return value


def moving(function: Mover) -> Callable[[Drawing, Node], ir.Value]:
    """A writer of an operation that leaves codes on the grid of its first operand."""

    def draw_moved(draw: Drawing, node: Node) -> ir.Value:
        operand = node.inputs[0]
        if operand in draw.grids:
            draw.grids[node.name] = draw.grids[operand]
        return function(draw, node, draw.values[operand])

    return draw_moved


def draw_concat(draw: Drawing, node: Node) -> ir.Value:
    """Concatenate: operands are put on the grid of the result before."""
    axis = {"axis": node.kwargs["dim"]}
    if node.quantizer is None:
        return draw.do(node, "Concat", [draw.real(node, name) for name in node.inputs], **axis)
    scale = np.float32(float(draw.grid(node).scale))
    parts = [_on_grid_of(draw, node, name, scale) for name in node.inputs]
    draw.grids[node.name] = draw.grid(node)
    return draw.do(node, "Concat", parts, **axis)


def _on_grid_of(draw: Drawing, node: Node, name: str, scale: np.float32) -> ir.Value:
    factor = np.float32(float(draw.grids[name].scale)) / scale
    value = draw.times(node, draw.values[name], float(factor))
    return draw.quantized(node, value, rounded=True)


_MOVERS: Mapping[str, Mover] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "index": _index,
    "expand": _expand,
    "pad": _pad,
    "border": _border,
    "roll": _roll,
    "resize": _resize,
    "max_pool": _max_pool,
    "amax": _extreme("ReduceMax"),
    "amin": _extreme("ReduceMin"),
    "dropout": _same,
}
DRAWERS: dict[str, Callable[[Drawing, Node], ir.Value]] = {
    **{kind: moving(function) for kind, function in _MOVERS.items()},
    "concat": draw_concat,
}
