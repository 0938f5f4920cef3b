"""Exact integer sums of convolutions and matrix products, computed by floating-point BLAS.

A float type adds and multiplies integers exactly as long as every partial sum stays below 2 to the number of its
mantissa bits, so the type is chosen from a bound on the sums: float32 below 2^24, float64 below 2^53.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

_COLUMN_BYTES = 1 << 27  # unfolded images of one chunk of the batch, or of some rows of one image


@dataclass(frozen=True)
class Window:
    """Kernel size, strides, dilations and pads (before, after) of each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, attributes: dict[str, Any], kernel: tuple[int, ...]) -> Window:
        """From ONNX attributes.

        Raises:
            ValueError: ``auto_pad`` asks for pads that depend on the image size, which exported files do not have.
        """
        rank = len(kernel)
        mode = attributes.get("auto_pad", b"NOTSET")
        if mode not in (b"NOTSET", b"VALID", b""):
            raise ValueError(f"auto_pad={mode.decode()}")
        pads = attributes.get("pads", [0] * 2 * rank) if mode != b"VALID" else [0] * 2 * rank
        return cls(
            kernel,
            tuple(attributes.get("strides", [1] * rank)),
            tuple(attributes.get("dilations", [1] * rank)),
            tuple(pads[:rank]),
            tuple(pads[rank:]),
        )

    def output_shape(self, image: tuple[int, ...], ceil: bool = False) -> tuple[int, ...]:
        """Spatial output size; with ``ceil`` a last window may hang over the end but must start inside the image."""
        sizes = []
        for axis, size in enumerate(image):
            extent = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            room = size + self.before[axis] + self.after[axis] - extent
            steps = -(-room // self.strides[axis]) if ceil else room // self.strides[axis]
            if ceil and steps * self.strides[axis] >= size + self.before[axis]:
                steps -= 1
            sizes.append(steps + 1)
        return tuple(sizes)

    def padded(self, x: np.ndarray, value: float, ceil: bool = False) -> np.ndarray:
        """``x`` [N, C, *image] with pads filled by ``value``, long enough for every window."""
        rank = len(self.kernel)
        image = x.shape[-rank:]
        ends = []
        for axis, windows in enumerate(self.output_shape(image, ceil)):
            reach = (windows - 1) * self.strides[axis] + (self.kernel[axis] - 1) * self.dilations[axis] + 1
            ends.append(max(self.after[axis], reach - image[axis] - self.before[axis]))
        widths = [(0, 0)] * (x.ndim - rank) + list(zip(self.before, ends, strict=True))
        return np.pad(x, widths, constant_values=value) if any(map(any, widths)) else x

    def taps(self, padded: np.ndarray, windows: tuple[int, ...]) -> list[np.ndarray]:
        """One view [N, C, *windows] of the padded images for each kernel position, in row-major order."""
        views = []
        for tap in itertools.product(*map(range, self.kernel)):
            starts = [t * d for t, d in zip(tap, self.dilations, strict=True)]
            spatial = tuple(
                slice(start, start + (count - 1) * stride + 1, stride)
                for start, count, stride in zip(starts, windows, self.strides, strict=True)
            )
            views.append(padded[(slice(None), slice(None), *spatial)])
        return views


def exact_type(bound: float) -> type[np.floating[Any]]:
    """The cheapest float type in which sums of integers up to ``bound`` are exact."""
    return np.float32 if bound < 2.0**24 else np.float64


def convolve(x: np.ndarray, weight: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """Sums of a convolution without bias: centred integers ``x`` [N, C, *image] and ``weight`` [O, C/groups, *kernel].

    Returns exact integers as float32 or float64, [N, O, *windows]. Zero pads are right because ``x`` is centred.
    """
    kind = exact_type(_largest(x) * float(np.abs(weight.reshape(len(weight), -1)).sum(axis=1, dtype=np.int64).max()))
    windows = window.output_shape(x.shape[2:])
    outputs, inputs, taps = weight.shape[0], weight.shape[1], math.prod(window.kernel)
    # [G, O/G, taps * C/G]: unfolded images are written tap by tap, in whole rows
    by_tap = weight.reshape(groups, outputs // groups, inputs, taps).swapaxes(2, 3)
    kernel = by_tap.reshape(groups, outputs // groups, taps * inputs).astype(kind)
    result = np.empty((len(x), outputs, *windows), kind)
    row = x.shape[1] * taps * math.prod(windows[1:]) * np.dtype(kind).itemsize
    rows = min(windows[0], max(1, _COLUMN_BYTES // max(row, 1)))
    step = max(1, _COLUMN_BYTES // max(row * rows, 1))
    for start in range(0, len(x), step):
        views = window.taps(window.padded(x[start : start + step], 0), windows)
        for top in range(0, windows[0], rows):
            band = slice(top, top + rows)
            result[start : start + step, :, band] = _sums([view[:, :, band] for view in views], kernel)
    return result


def _sums(views: list[np.ndarray], kernel: np.ndarray) -> np.ndarray:
    """Sums of products [N, O, *windows].

    Args:
        views: of the images, one [N, C, *windows] for each tap.
        kernel: [G, O/G, taps * C/G].
    """
    samples, channels, *windows = views[0].shape
    groups, outputs, products = kernel.shape
    columns = np.empty((samples, groups, len(views), channels // groups, *windows), kernel.dtype)
    for index, view in enumerate(views):
        columns[:, :, index] = view.reshape(samples, groups, channels // groups, *windows)
    sums = kernel @ columns.reshape(samples, groups, products, math.prod(windows))
    return np.asarray(sums.reshape(samples, groups * outputs, *windows))


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matrix product of centred integers [..., M, K] and [..., K, N] as exact float32 or float64 integers."""
    kind = exact_type(_largest(a) * _largest(b) * a.shape[-1])
    return np.asarray(a.astype(kind) @ b.astype(kind))


def _largest(x: np.ndarray) -> float:
    return float(np.abs(x).max()) if x.size else 0.0
