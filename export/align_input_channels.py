"""Convolutions of a few channels, in the shape that ONNX Runtime's direct integer kernel takes.

The kernel needs input channels in multiples of four; others (the three channels of an image) go through im2col and a
matrix product, which for the 7x7 stem of a ResNet is slower than fp32. Two rewrites of the uint8 codes and the weights
keep every accumulator, hence every code:

- stride 2: each 2x2 block of pixels becomes one pixel of four times the channels, and the kernel is folded likewise;
- otherwise: channels are padded to a multiple of four, with zero weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qkd_deploy.export.graph_builder import GraphBuilder

_ALIGNMENT = 4
_LARGE_PATCH = 64  # pixels; patches of 4x4 are still faster when widened
_LEAST_OUTPUTS = 16  # narrower convolutions never reach the direct kernel


@dataclass(frozen=True)
class WideConv:
    """The operand, weight codes [out, in, kh, kw] and attributes of the equivalent convolution."""

    operand: ir.Value
    weight: npt.NDArray[np.int8]
    attributes: dict[str, Any]


def align_input_channels(
    builder: GraphBuilder,
    name: str,
    operand: ir.Value,
    shape: tuple[int, ...],
    weight: npt.NDArray[np.int8],
    attributes: Mapping[str, Any],
) -> WideConv:
    """Rewrite a 2-d convolution over too few channels; any other comes back as it is.

    Args:
        builder: where the nodes go.
        name: the layer, which names the new values.
        operand: the dequantized input of ``shape`` [N, C, H, W].
        shape: its shape; N is not used.
        weight: int8 codes [out, C, kh, kw].
        attributes: of the Conv node: kernel_shape, strides, pads, dilations, group.
    """
    same = WideConv(operand, weight, dict(attributes))
    quantizer = operand.producer()
    if quantizer is None or quantizer.op_type != "DequantizeLinear" or not _gains(weight, attributes):
        return same
    codes, scale, zero_point = quantizer.inputs
    assert codes is not None and scale is not None and zero_point is not None
    pads = _folded_pads(shape, attributes)
    if pads is None:
        extra = -weight.shape[1] % _ALIGNMENT
        weight = np.pad(weight, ((0, 0), (0, extra), (0, 0), (0, 0)))
        amounts = builder.integers(f"{name}.channel_padding", [0, 0, 0, 0, 0, extra, 0, 0])
        wide = builder.add("Pad", [codes, amounts, zero_point], f"{name}.wide", node=f"{name}.input")
    else:
        weight = _fold_weight(weight, attributes["pads"][:2])
        wide = _fold_pixels(builder, name, codes, shape)
        same.attributes.update(kernel_shape=list(weight.shape[2:]), strides=[1, 1], pads=pads)
    wide_operand = builder.add(
        "DequantizeLinear", [wide, scale, zero_point], f"{name}.wide_dequantized", node=f"{name}.input"
    )
    return WideConv(wide_operand, weight, same.attributes)


def _gains(weight: npt.NDArray[np.int8], attributes: Mapping[str, Any]) -> bool:
    """True for convolutions that only the number of their input channels keeps from the direct kernel."""
    if weight.ndim != 4 or attributes["group"] != 1 or _takes_patches(attributes):
        return False
    outputs, channels = weight.shape[:2]
    return bool(channels % _ALIGNMENT != 0 and outputs % _ALIGNMENT == 0 and outputs >= _LEAST_OUTPUTS)


def _takes_patches(attributes: Mapping[str, Any]) -> bool:
    """True for large windows that do not overlap, as in vision transformers: im2col then costs next to nothing."""
    kernel, strides = attributes["kernel_shape"], attributes["strides"]
    return all(s >= k for s, k in zip(strides, kernel, strict=True)) and kernel[0] * kernel[1] >= _LARGE_PATCH


def _folded_pads(shape: tuple[int, ...], attributes: Mapping[str, Any]) -> list[int] | None:
    """Padding of the folded convolution, or None where folding is impossible."""
    sizes, kernel, pads = shape[2:], attributes["kernel_shape"], attributes["pads"]
    if list(attributes["strides"]) != [2, 2] or list(attributes["dilations"]) != [1, 1] or any(s % 2 for s in sizes):
        return None
    begins = [(p + 1) // 2 for p in pads[:2]]
    ends = []
    for axis in range(2):
        outputs = (sizes[axis] + pads[axis] + pads[axis + 2] - kernel[axis]) // 2 + 1
        taps = (kernel[axis] + pads[axis] % 2 + 1) // 2
        ends.append(outputs - 1 + taps - sizes[axis] // 2 - begins[axis])
    return begins + ends if min(ends) >= 0 else None


def _fold_weight(weight: npt.NDArray[np.int8], begins: list[int]) -> npt.NDArray[np.int8]:
    """[out, C, kh, kw] -> [out, 4C, kh', kw'], channels in the order (column parity, row parity, channel)."""
    out, channels, height, width = weight.shape
    shifts = [p % 2 for p in begins]  # an odd padding gains a row (column) of zeros, to become even
    spans = [-(-(size + shift) // 2) for size, shift in zip((height, width), shifts, strict=True)]
    whole = np.zeros((out, channels, 2 * spans[0], 2 * spans[1]), np.int8)
    whole[:, :, shifts[0] : shifts[0] + height, shifts[1] : shifts[1] + width] = weight
    blocks = whole.reshape(out, channels, spans[0], 2, spans[1], 2)
    return blocks.transpose(0, 5, 3, 1, 2, 4).reshape(out, 4 * channels, *spans)


def _fold_pixels(builder: GraphBuilder, name: str, codes: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    """[N, C, H, W] -> [N, 4C, H/2, W/2]; rows, then columns where channels are last (cheaper than SpaceToDepth)."""
    _, channels, height, width = shape
    steps: list[tuple[list[int], list[int]]] = [
        ([-1, channels, height // 2, 2, width], [0, 3, 1, 2, 4]),
        ([-1, 2 * channels, height // 2, width], [0, 2, 3, 1]),
        ([-1, height // 2, width // 2, 4 * channels], [0, 3, 1, 2]),
    ]
    value = codes
    for number, (target, order) in enumerate(steps):
        sizes = builder.integers(f"{name}.fold_shape_{number}", target)
        value = builder.add("Reshape", [value, sizes], f"{name}.fold_{number}", node=f"{name}.input")
        last = number == len(steps) - 1
        output = f"{name}.wide" if last else f"{name}.fold_{number}_transposed"
        value = builder.add("Transpose", [value], output, node=f"{name}.input", attributes={"perm": order})
    return value
