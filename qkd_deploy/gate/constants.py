"""Constants of an exported file: what they hold is what their type and shape say."""

from __future__ import annotations

import math

import onnx
from onnx import TensorProto

from qkd_deploy.gate.refusal import NotAsExportedError

BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.DOUBLE: 64,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.INT8: 8,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.UINT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.INT4: 4,
    TensorProto.INT2: 2,
}
"""By element type of constants and values, the bits that an element takes."""


def require_constants(graph: onnx.GraphProto) -> None:
    """Refuse constants whose bytes are not as many as type and shape say, or whose described type is another.

    Raises:
        NotAsExportedError: with the first of them.
    """
    for tensor in graph.initializer:
        _require_whole(tensor, f"the constant {tensor.name!r}")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _require_whole(attribute.t, f"the attribute {attribute.name!r} of {node.name!r}")
    _require_descriptions(graph)


def _require_whole(tensor: TensorProto, what: str) -> None:
    if tensor.data_type not in BITS:
        raise NotAsExportedError(f"{what} has an element type that is not written")
    if any(size < 0 for size in tensor.dims):
        raise NotAsExportedError(f"{what} has a negative size")
    wanted = (math.prod(tensor.dims) * BITS[tensor.data_type] + 7) // 8
    if len(tensor.raw_data) != wanted:
        raise NotAsExportedError(f"{what} holds {len(tensor.raw_data)} bytes instead of {wanted}")


def _require_descriptions(graph: onnx.GraphProto) -> None:
    """Types that the file gives for values are those of its constants; no other value has one."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    described: set[str] = set()
    for value in graph.value_info:
        tensor, kind = constants.get(value.name), value.type.tensor_type
        if tensor is None or value.name in described:
            raise NotAsExportedError(f"it gives a type for {value.name!r}, which is no constant, or twice")
        described.add(value.name)
        if kind.elem_type != tensor.data_type or [dim.dim_value for dim in kind.shape.dim] != list(tensor.dims):
            raise NotAsExportedError(f"it gives another type for the constant {value.name!r} than that has")
