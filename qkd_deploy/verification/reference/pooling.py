"""Pooling of codes: max, average and global average."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from qkd_deploy.verification.onnx_graph import attributes_of
from qkd_deploy.verification.reference import rounding
from qkd_deploy.verification.reference.accumulate import Window
from qkd_deploy.verification.reference.operator import Operands, Operator, first
from qkd_deploy.verification.reference.rounding import F32, Parameters


def max_pool(codes: np.ndarray, attributes: dict[str, Any]) -> np.ndarray:
    """MaxPool of codes [N, C, *image]; pads never win."""
    window = Window.of(attributes, tuple(attributes["kernel_shape"]))
    ceil = bool(attributes.get("ceil_mode", 0))
    padded = window.padded(codes, np.iinfo(codes.dtype).min, ceil)
    views = window.taps(padded, window.output_shape(codes.shape[2:], ceil))
    result = views[0].copy()
    for view in views[1:]:
        np.maximum(result, view, out=result)
    return result


def average_pool(codes: np.ndarray, source: Parameters, out: Parameters, attributes: dict[str, Any]) -> np.ndarray:
    """QLinearAveragePool: dequantize, add up in float32 in row-major order of the window, divide, quantize.

    Unlike QuantizeLinear, this kernel adds the zero point before it rounds: ``rint(f32(f32(mean / s_y) + f32(zp)))``.
    One window that is the whole image, without pads, takes the formula of the global pool instead.
    """
    window = Window.of(attributes, tuple(attributes["kernel_shape"]))
    if window.kernel == codes.shape[2:] and not any(window.before + window.after):
        return global_average_pool(codes, source, out)
    ceil = bool(attributes.get("ceil_mode", 0))
    windows = window.output_shape(codes.shape[2:], ceil)
    x = rounding.dequantize(codes, *source)
    total = np.zeros((*x.shape[:2], *windows), F32)
    for view in window.taps(window.padded(x, 0.0, ceil), windows):
        total += view
    mean = total / _window_sizes(window, codes.shape[2:], ceil, attributes)
    return rounding.round_and_saturate(mean / F32(out.scale) + F32(out.zero), np.zeros((), out.zero.dtype))


def global_average_pool(codes: np.ndarray, source: Parameters, out: Parameters) -> np.ndarray:
    """QLinearGlobalAveragePool: ``rint(f32(sum - zx*n) * f32(s_x / f32(s_y*f32(n)))) + zp``."""
    axes = tuple(range(2, codes.ndim))
    count = math.prod(codes.shape[2:])
    total = codes.sum(axis=axes, keepdims=True, dtype=np.int64) - int(source.zero) * count
    return rounding.round_and_saturate(
        total.astype(F32) * (F32(source.scale) / (F32(out.scale) * F32(count))), out.zero
    )


def _window_sizes(window: Window, image: tuple[int, ...], ceil: bool, attributes: dict[str, Any]) -> np.ndarray:
    """Number of elements that each window is divided by: all of them, or those inside the image.

    With ``count_include_pad`` this kernel divides by the whole kernel size, also where ``ceil_mode`` lets a window hang
    over the declared pads (the ONNX definition leaves that part out).
    """
    if attributes.get("count_include_pad", 0):
        return np.asarray(math.prod(window.kernel), F32)
    inside = window.padded(np.ones((1, 1, *image), F32), 0.0, ceil)
    return np.asarray(sum(window.taps(inside, window.output_shape(image, ceil))), dtype=F32)


def _max_pool(node: onnx.NodeProto, codes: np.ndarray) -> np.ndarray:
    return max_pool(codes, attributes_of(node))


def _average_pool(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    x = first(operands)
    return average_pool(x.codes, x.parameters, out, attributes_of(node))


def _global_average_pool(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    x = first(operands)
    return global_average_pool(x.codes, x.parameters, out)


OPERATORS = {
    "MaxPool": Operator(on_codes=_max_pool),
    "AveragePool": Operator(fused=_average_pool),
    "GlobalAveragePool": Operator(fused=_global_average_pool),
}
