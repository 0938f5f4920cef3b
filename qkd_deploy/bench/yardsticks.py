"""What the machine can do, measured in the same run: integer products of a matrix, and operators without work."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROWS, DEPTH, COLUMNS = 256, 1024, 256
"""Of the product: operands and result take 0.75 MB, which caches hold."""
PEAK_MACS = ROWS * DEPTH * COLUMNS
CHAIN = 63
"""Operators of the long chain beyond the one of the short chain."""
_CHANNELS = 8
_MICROSOFT = "com.microsoft"


@cache
def product() -> bytes:
    """One product of uint8 by int8 in ONNX Runtime's fastest kernel, with constant weights."""
    weights = numpy_helper.from_array(np.ones((DEPTH, COLUMNS), np.int8), "w")
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    return _model(nodes, [weights], ("x", TensorProto.UINT8, [ROWS, DEPTH]), ("y", TensorProto.INT32, [ROWS, COLUMNS]))


@cache
def chain(operators: int) -> bytes:
    """So many operators one after the other with hardly anything to compute: convolution, addition and clip in turn."""
    shape = (_CHANNELS, _CHANNELS, 3, 3)
    constants = {"s": np.float32(0.1), "z": np.uint8(0), "w": np.ones(shape, np.int8), "o": np.int8(0)}
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    nodes = [_link(place, f"v{place}", f"v{place + 1}") for place in range(operators)]
    ends = [(f"v{i}", TensorProto.UINT8, [1, _CHANNELS, 1, 1]) for i in (0, operators)]
    return _model(nodes, initializers, *ends)


def _link(place: int, taken: str, given: str) -> onnx.NodeProto:
    """One operator of a chain."""
    match place % 3:
        case 0:
            return helper.make_node("QLinearConv", [taken, *"szwsosz"], [given], pads=[1] * 4)
        case 1:
            return helper.make_node("QLinearAdd", [taken, "s", "z", taken, *"szsz"], [given], domain=_MICROSOFT)
    return helper.make_node("Clip", [taken, "z"], [given])


def inputs_of(yardstick: bytes) -> np.ndarray:
    """Make the input of one of them."""
    kind = onnx.ModelProto.FromString(yardstick).graph.input[0].type.tensor_type
    return np.ones([dim.dim_value for dim in kind.shape.dim], np.uint8)


def _model(
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    taken: tuple[str, int, list[int]],
    given: tuple[str, int, list[int]],
) -> bytes:
    inputs, outputs = ([helper.make_tensor_value_info(*end)] for end in (taken, given))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_MICROSOFT, 1)]
    model = helper.make_model(helper.make_graph(nodes, "yardstick", inputs, outputs, constants), opset_imports=opsets)
    model.ir_version = 8  # of opset 17, which every ONNX Runtime that is supported reads
    content: bytes = model.SerializeToString()
    return content


def overhead_of(operators: int, one: np.ndarray, many: np.ndarray) -> float:
    """Seconds that a run of so many operators takes when they have nothing to compute.

    Args:
        operators: how many.
        one: seconds of ``chain(1)`` by rounds.
        many: seconds of ``chain(1 + CHAIN)`` by rounds.
    """
    each = (many - one) / CHAIN
    return max(0.0, float(np.median(one + (operators - 1) * each)))
