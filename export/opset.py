"""Write a finished graph for an older operator set, or refuse by name; and the runtimes that ran each set.

Operators whose form changed keep their meaning where they are listed here; for all others the definition that held in
the older set has to be the one that the exporter writes for.
"""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from qkd_deploy.errors import UserError
from qkd_deploy.export.graph_builder import PACKED_RUNTIME
from qkd_deploy.graph.translation.translate import OPSET

_AXES_ARE_AN_INPUT = 18
"""First set in which reductions take their axes as an operand."""
_REDUCTIONS = ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceL2", "ReduceSumSquare")
_SAME = frozenset(
    {
        "Add", "Cast", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "DequantizeLinear",
        "Div", "Equal", "Expand", "Flatten", "Gather", "Identity", "LeakyRelu", "MaxPool", "Mul", "Pad",
        "QuantizeLinear", "Relu", "Reshape", "Resize", "Shape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze",
        "Where", *_REDUCTIONS,
    }
)  # fmt: skip
"""Operators that later sets gave more types or options, and no other meaning to what was there."""
TRIED = {13: "1.15.1", 19: "1.16.3", 20: "1.17.3", 21: "1.20.1"}
"""From which operator set on which ONNX Runtime is the oldest that was seen to compute equal codes."""


def tried_runtime(model: onnx.ModelProto) -> str:
    """Name the oldest ONNX Runtime that was tried for what a file uses."""
    opset = model.opset_import[0].version
    packed = any(t.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.INT2) for t in model.graph.initializer)
    return PACKED_RUNTIME if packed or opset > OPSET else TRIED[max(known for known in TRIED if known <= opset)]


def write_for(model: onnx.ModelProto, opset: int) -> None:
    """Rewrite a graph in place for an operator set that is older than its own.

    Raises:
        UserError: it holds what that set does not have; names the operator and what to do.
    """
    if opset == model.opset_import[0].version:
        return
    for node in model.graph.node:
        _require(node, opset)
        _drop_new_defaults(node, opset)
        if node.op_type in _REDUCTIONS and opset < _AXES_ARE_AN_INPUT:
            _axes_as_attribute(model, node, opset)
    _drop_unread_constants(model.graph)
    model.opset_import[0].version = opset
    model.ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"operator set {opset} has no place for this graph ({first}); leave out --opset (opset in Python)"
        ) from error


def _require(node: onnx.NodeProto, opset: int) -> None:
    since = onnx.defs.get_schema(node.op_type, OPSET).since_version
    if since > opset and (node.op_type not in _SAME or not _existed(node.op_type, opset)):
        raise _newer(node, since, opset)


def _newer(node: onnx.NodeProto, since: int, opset: int) -> UserError:
    tensor = node.name.rpartition("/")[0]
    return UserError(
        f"{tensor} is written with {node.op_type} of operator set {since}, which {opset} does not have; "
        f"use --opset {since} (opset={since} in Python), or leave it out"
    )


def _existed(operator: str, opset: int) -> bool:
    try:
        return onnx.defs.get_schema(operator, opset) is not None
    except onnx.defs.SchemaError:
        return False


def _axes_as_attribute(model: onnx.ModelProto, node: onnx.NodeProto, opset: int) -> None:
    if len(node.input) < 2:
        return
    axes = next((tensor for tensor in model.graph.initializer if tensor.name == node.input[1]), None)
    if axes is None:
        raise _newer(node, _AXES_ARE_AN_INPUT, opset)
    del node.input[1:]
    node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(axes).tolist()))


def _drop_new_defaults(node: onnx.NodeProto, opset: int) -> None:
    """Leave out what the older definition has no word for, where it says no more than the default."""
    then = onnx.defs.get_schema(node.op_type, opset).attributes
    now = onnx.defs.get_schema(node.op_type, OPSET).attributes
    for attribute in list(node.attribute):
        known = attribute.name in now and attribute.name not in then
        if known and helper.get_attribute_value(attribute) == helper.get_attribute_value(
            now[attribute.name].default_value
        ):
            node.attribute.remove(attribute)


def _drop_unread_constants(graph: onnx.GraphProto) -> None:
    """Remove initializers that became attributes."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    unread = {tensor.name for tensor in graph.initializer} - read
    for field in (graph.initializer, graph.value_info):
        kept = [item for item in field if item.name not in unread]
        del field[:]
        field.extend(kept)
