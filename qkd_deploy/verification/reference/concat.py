"""Tensors side by side, each rescaled by a table over its codes."""

from __future__ import annotations

import numpy as np
import onnx

from qkd_deploy.verification.onnx_graph import attributes_of
from qkd_deploy.verification.reference import rounding
from qkd_deploy.verification.reference.operator import Operands, Operator
from qkd_deploy.verification.reference.rounding import Parameters


def rescale_table(source: Parameters, out: Parameters) -> np.ndarray:
    """All 256 codes dequantized with one pair of parameters and quantized with another (QLinearConcat)."""
    return rounding.quantize(rounding.dequantize(np.arange(256), *source), *out)


def _concat(node: onnx.NodeProto, operands: Operands, out: Parameters) -> np.ndarray:
    parts = [rescale_table(part.parameters, out)[part.codes] for part in operands if part is not None]
    return np.concatenate(parts, axis=attributes_of(node)["axis"])


OPERATORS = {"Concat": Operator(fused=_concat)}
