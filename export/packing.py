"""Weight codes as initializers: plain int8, or packed INT4 / INT2 that the runtime unpacks while loading.

A packed initializer holds the codes before upscaling; ``Cast(INT8)`` and an int8 ``Mul`` by the upscale give the int8
codes back. ONNX Runtime folds both while loading, so kernels, results and speed stay the same.
"""

from __future__ import annotations

from collections.abc import Hashable

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from qkd_deploy.errors import UserError
from qkd_deploy.export.graph_builder import PACKED_OPSETS, GraphBuilder
from qkd_deploy.graph.integer.layer import IntegerLayer

_TYPES = {2: (ir.DataType.INT2, ml_dtypes.int2), 4: (ir.DataType.INT4, ml_dtypes.int4)}


def container_bits(weight_bits: int, weights: str) -> int:
    """Bits that one stored weight takes: 8, or the packed type's."""
    if weights != "packed" or weight_bits > 4:
        return 8
    return 2 if weight_bits == 2 else 4


def emit_weight_codes(
    builder: GraphBuilder,
    name: str,
    codes: npt.NDArray[np.int8],
    layer: IntegerLayer,
    weights: str,
    owner: Hashable = None,
) -> ir.Value:
    """The int8 weight codes of a layer as a value.

    Args:
        builder: where constants and nodes go.
        name: the layer.
        codes: the layer's codes, in the shape that the convolution takes.
        layer: tells bits and upscale.
        weights: "int8" or "packed".
        owner: the weights, where several places may use them; equal codes of one owner are stored once.

    Raises:
        UserError: full-range codes whose sign a batch norm flipped do not fit the packed type.
    """
    bits = container_bits(layer.weight_bits, weights)
    if bits == 8:
        return builder.constant(f"{name}.weight", codes, owner=owner)
    base = codes_before_upscaling(name, codes, layer, bits)
    dtype, numpy_type = _TYPES[bits]
    builder.opset = max(builder.opset, PACKED_OPSETS[bits])
    packed = builder.constant(f"{name}.weight_packed", base.astype(numpy_type), dtype, owner=owner)
    unpacked = builder.add(
        "Cast", [packed], f"{name}.weight_unpacked", node=f"{name}.weight", attributes={"to": int(ir.DataType.INT8)}
    )
    if layer.upscale == 1:
        return unpacked
    factor = builder.scalar(f"{name}.weight_upscale", layer.upscale, np.int8)
    return builder.add("Mul", [unpacked, factor], f"{name}.weight_int8", node=f"{name}.weight")


def codes_before_upscaling(
    name: str, codes: npt.NDArray[np.int8], layer: IntegerLayer, bits: int
) -> npt.NDArray[np.int8]:
    """The codes of a layer as a packed type of so many bits holds them.

    Raises:
        UserError: full-range codes whose sign a batch norm flipped do not fit the packed type.
    """
    base: npt.NDArray[np.int8] = codes // layer.upscale
    if base.max(initial=0) >= 2 ** (bits - 1):
        raise UserError(
            f"{name} has codes beyond its packed type: a negative gamma flipped the sign of full-range weights; "
            "prepare with --weight-range safe or export with --weights int8 (weight_range=, weights= in Python)"
        )
    return base
