"""QLinearSoftmax: exponentials from a table, summed in float32 one by one."""

from __future__ import annotations

import math

import numpy as np

from qkd_deploy.verification.reference import arithmetic
from qkd_deploy.verification.reference.arithmetic import Parameters

F32 = np.float32
_RESERVE = 5.0  # the kernel keeps this far (as a logarithm) below the largest float32


def softmax(codes: np.ndarray, source: Parameters, out: Parameters, axis: int) -> np.ndarray:
    """``rint(f32(f32(e * floor(1/s_y)) / sum)) + zp``, ``e`` the exponential of the code as if the largest were 255.

    The kernel rounds ``1/s_y`` down to an integer N, so that only scales 1/N keep their meaning, and its products
    overflow where N reaches 148 times the length of a row. The operand's zero point has no part.
    """
    x = np.moveaxis(codes, axis, -1)
    table = _exponentials(source.scale, x.shape[-1])
    e = table[255 - (x.max(axis=-1, keepdims=True) - x)]
    total = np.add.accumulate(e, axis=-1, dtype=F32)[..., -1:]
    steps = np.rint(e * np.floor(F32(1) / F32(out.scale)) / total)
    return np.moveaxis(arithmetic.round_and_saturate(steps, out.zero), -1, axis)


def _exponentials(scale: np.ndarray, length: int) -> np.ndarray:
    """float32 [256], scaled so that a sum of ``length`` of them stays finite."""
    largest = F32(math.log(np.finfo(F32).max / F32(length)))  # the kernel takes this logarithm in float32
    shift = max(0.0, float(largest) - _RESERVE) / float(scale)
    return np.asarray(np.exp((np.arange(256) - 255 + shift) * float(scale)).astype(F32))
