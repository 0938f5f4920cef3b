"""Operators of exported files: all of ONNX's own that compute tensors from tensors alone, and what operands may be.

The list is a rule, because what stays in float is written with whatever operators PyTorch's exporter chooses.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.defs import OpSchema

from qkd_deploy.gate.refusal import NotAsExportedError

CHANCE = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Operators that give something else every time."""
TEXT_AND_FILES = frozenset(
    {"StringConcat", "StringSplit", "StringNormalizer", "RegexFullMatch", "TfIdfVectorizer", "ImageDecoder"}
)
"""Operators on texts and on files in memory."""
OPTIONALS = frozenset({"Optional", "OptionalHasElement", "OptionalGetElement"})
"""Operators on values that may be absent."""

_AT_LEAST_ONE = frozenset({"group", "strides", "dilations", "kernel_shape", "blocksize", "num_outputs"})
"""Attributes whose numbers count something."""
_GRAPHS = (OpSchema.AttrType.GRAPH, OpSchema.AttrType.GRAPHS)
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def refused_because(operator: str, opset: int, domain: str = "") -> str:
    """Say why exported files do not hold an operator, as a clause; "" where they may."""
    if domain or not onnx.defs.has(operator):
        return "it is no operator of ONNX"
    try:
        schema = onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        return f"opset {opset} does not have it"
    if schema.deprecated:
        return f"opset {opset} does not have it any more"
    if any(attribute.type in _GRAPHS for attribute in schema.attributes.values()):
        return "it runs other graphs, perhaps without end"
    if operator in CHANCE:
        return "it gives something else every time"
    return "it does not compute tensors from tensors" if operator in TEXT_AND_FILES | OPTIONALS else ""


def require_operators(model: onnx.ModelProto) -> None:
    """Refuse operators, attributes and operands of quantizers that exported files do not have.

    Raises:
        NotAsExportedError: with the first of them.
    """
    opset = model.opset_import[0].version
    if not 1 <= opset <= onnx.defs.onnx_opset_version():
        raise NotAsExportedError(f"it is written for opset {opset}")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    inputs = {value.name for value in model.graph.input}
    for node in model.graph.node:
        reason = refused_because(node.op_type, opset, node.domain)
        if reason:
            raise NotAsExportedError(f"{node.name!r} is the operator {node.op_type!r}, and {reason}")
        for attribute in node.attribute:
            _require_count(node, attribute)
        if node.op_type in _QUANTIZERS:
            _require_grid(node, constants, inputs)


def _require_count(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> None:
    numbers = (*attribute.ints, attribute.i) if attribute.type == onnx.AttributeProto.INT else attribute.ints
    if attribute.name in _AT_LEAST_ONE and not all(1 <= number < 2**31 for number in numbers):
        raise NotAsExportedError(f"the attribute {attribute.name!r} of {node.name!r} is {list(numbers)}")


def _require_grid(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], inputs: set[str]) -> None:
    """Scale and zero point: constants of one shape, or made by the graph; never given from outside."""
    names = [*node.input[1:3], "", ""][:2]
    if not names[0] or not inputs.isdisjoint(names):
        raise NotAsExportedError(f"{node.name!r} has no scale, or takes it from outside")
    scale, zero_point = (constants.get(name) for name in names)
    if scale is None:
        return
    if scale.data_type != onnx.TensorProto.FLOAT or len(scale.dims) > 1:
        raise NotAsExportedError(f"the scale {scale.name!r} is no float32 of one or no dimension")
    if zero_point is not None and list(zero_point.dims) != list(scale.dims):
        raise NotAsExportedError(f"the zero point {zero_point.name!r} is not of the shape of its scale")
    steps = np.asarray(numpy_helper.to_array(scale))
    if not math.prod(scale.dims) or not np.isfinite(steps).all() or not (steps > 0).all():
        raise NotAsExportedError(f"the scale {scale.name!r} holds numbers that are no steps")
