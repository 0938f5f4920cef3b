"""How large the values of a graph are, before anything is computed: by ONNX's shape inference, for two samples."""

from __future__ import annotations

import math

import onnx

from qkd_deploy.gate.constants import BITS
from qkd_deploy.gate.names import BATCH
from qkd_deploy.gate.refusal import NotAsExportedError

SAMPLES = 2
"""Samples for which sizes are worked out."""
LARGEST_VALUE = 2**33
"""Bytes that one value may take for two samples: more than any machine that the format is for could hold."""
_LARGE_CONSTANT = 4096
"""Bytes from which a constant can be no shape, so that shape inference need not see it."""


def require_sizes(model: onnx.ModelProto) -> None:
    """Refuse a graph whose shapes contradict each other, or that makes values which no machine could hold.

    Raises:
        NotAsExportedError: with what is wrong.
    """
    for value in model.graph.input:
        if any(dim.HasField("dim_value") and dim.dim_value < 1 for dim in value.type.tensor_type.shape.dim):
            raise NotAsExportedError(f"the input {value.name!r} has a size below 1")
    for value in value_types(model):
        size = bytes_of(value)
        if size is not None and size > LARGEST_VALUE:
            raise NotAsExportedError(f"{value.name!r} would take {size / 1e9:,.0f} GB")


def value_types(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs, inner values and outputs of a graph, with their types and shapes for two samples.

    Raises:
        NotAsExportedError: operands do not fit their operators.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(_outline(model), check_type=True, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise NotAsExportedError(f"shapes do not fit: {lines[0] if lines else type(error).__name__}") from error
    graph = inferred.graph
    return [*graph.input, *graph.value_info, *graph.output]


def bytes_of(value: onnx.ValueInfoProto) -> int | None:
    """Bytes that a value takes; None where its shape is not known before it is computed."""
    kind = value.type.tensor_type
    known = value.type.HasField("tensor_type") and kind.HasField("shape")
    if not known or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    elements: int = math.prod(dim.dim_value for dim in kind.shape.dim)
    return elements * BITS.get(kind.elem_type, 64) // 8


def _outline(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model for a fixed number of samples, with large constants as inputs without content."""
    outline = onnx.ModelProto()
    outline.ir_version = model.ir_version
    outline.opset_import.extend(model.opset_import)
    graph, given = outline.graph, model.graph
    graph.name = given.name
    graph.node.extend(given.node)
    graph.input.extend(given.input)
    graph.output.extend(given.output)
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == BATCH:
                dim.dim_value = SAMPLES
    for tensor in given.initializer:
        if len(tensor.raw_data) < _LARGE_CONSTANT:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return outline
