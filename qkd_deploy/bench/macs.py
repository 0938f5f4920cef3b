"""Count the multiplications of a graph."""

from __future__ import annotations

import math

import onnx

from qkd_deploy.gate.refusal import NotAsExportedError
from qkd_deploy.gate.sizes import SAMPLES, value_types


def macs_of(model: onnx.ModelProto) -> int | None:
    """Multiplications (and additions) of convolutions and matrix products for one sample; None where sizes are open."""
    try:
        shapes = {value.name: _shape(value) for value in value_types(model)}
    except NotAsExportedError:
        return None
    shapes |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    counted: list[int | None] = [_macs(node, shapes) for node in model.graph.node]
    total = sum(macs or 0 for macs in counted)
    return total // SAMPLES if total and None not in counted else None


def _macs(node: onnx.NodeProto, shapes: dict[str, list[int] | None]) -> int | None:
    """Of a node, for two samples; None where a size is not known."""
    if node.op_type not in _COUNTED:
        return 0
    read, weights, made = (shapes.get(name) for name in (*node.input[:2], node.output[0]))
    if read is None or weights is None or made is None:
        return None
    if node.op_type == "ConvTranspose":
        return math.prod(read) * math.prod(weights[1:])
    if node.op_type == "Conv":
        return math.prod(made) * math.prod(weights[1:])
    turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(made) * (read[0] if turned else read[-1])


_COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger")


def _shape(value: onnx.ValueInfoProto) -> list[int] | None:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value for dim in dims] if all(dim.HasField("dim_value") for dim in dims) else None
