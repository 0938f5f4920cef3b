"""The network of a prepared model in float, as ONNX: what its integer model is compared with in speed and size."""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import numpy_helper

from qkd_deploy.export.emit import emit
from qkd_deploy.graph.integer.layer import IntegerLayer
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.module_keys import module_key
from qkd_deploy.graph.ops.arithmetic import ADD
from qkd_deploy.graph.prepared import PreparedModel


def build_float_model(prepared: PreparedModel) -> onnx.ModelProto:
    """Write a network without its quantizers: batch norms folded, activation functions as operators of their own.

    Weights keep the values that they are rounded to in the integer model, as float32.

    Raises:
        UserError: an operation that ONNX cannot express.
    """
    graph = copy.deepcopy(prepared.graph)
    _take_quantizers_out(graph)
    layers = {
        module_key(node.name): IntegerLayer(prepared.folded(node), prepared.layer_bits[node.name].weight)
        for node in graph.nodes
        if node.is_layer
    }
    frozen = FrozenModel(copy.deepcopy(prepared.network), graph, {}, layers).cpu()
    model = emit(frozen).model
    _dequantize_weights(model)
    return model


def _take_quantizers_out(graph: Graph) -> None:
    """Leave floats as they are; means weighted by exponentials become the softmax and the product that they were.

    Images come as ``(pixel - 128) / 64``, and borders are zeros, which the runtime lets convolutions pad: a network in
    float needs neither, and would take longer with them.
    """
    for node in graph.nodes:
        node.quantizer = node.source = None
        if node.kind == "input":
            node.kwargs = {}
        elif node.kind == "border":
            node.become("pad", node.args, amounts=node.kwargs["amounts"], mode="constant")
        if node.kind == "exponential":
            _add_offsets(graph, node)
            node.kind, node.clip = "softmax", None
        elif node.kind == "weighted_mean":
            node.kind, node.args = "matmul", node.args[:2]


def _add_offsets(graph: Graph, node: Node) -> None:
    """Put the sums of scores with their offsets in front of their exponentials."""
    scores, *offsets = node.args
    for offset in offsets:
        name = graph.unused_name(f"{node.name}.sum")
        made = Node(name, ADD.name, (scores, offset), label=name, shape=node.shape, batch_dims=node.batch_dims)
        graph.insert_before(node, made)
        scores = Ref(name)
    node.args = (scores,)


def _dequantize_weights(model: onnx.ModelProto) -> None:
    """Put float constants in the place of codes behind a DequantizeLinear, which the runtime would run every time."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    floats: dict[str, onnx.TensorProto] = {}
    for node in [node for node in graph.node if node.op_type == "DequantizeLinear"]:
        codes, scale, _ = (numpy_helper.to_array(constants[name]) for name in node.input)
        by_channel = scale.reshape(-1, *[1] * (codes.ndim - 1))
        made = floats.setdefault(f"{node.input[0]} {node.input[1]}", onnx.TensorProto())
        if not made.name:
            made.CopyFrom(numpy_helper.from_array(np.asarray(codes * by_channel, np.float32), node.output[0]))
        _read_instead(graph, node.output[0], made.name)
        graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    del graph.initializer[:]
    graph.initializer.extend(tensor for tensor in (*constants.values(), *floats.values()) if tensor.name in read)


def _read_instead(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let all nodes that read one value read another."""
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new
