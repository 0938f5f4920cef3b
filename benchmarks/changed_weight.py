"""Gives one weight of an exported file the other sign, which every check of the file has to notice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def change_a_weight(file: Path) -> None:
    """Change the largest weight of the last layer, in ``.onnx`` and ``.tflite`` files."""
    {".onnx": _in_onnx, ".tflite": _in_tflite}[file.suffix](file)


def _in_onnx(file: Path) -> None:
    model = onnx.load(file)
    tensor = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1][-1]
    tensor.CopyFrom(numpy_helper.from_array(_changed(numpy_helper.to_array(tensor)), tensor.name))
    file.write_bytes(model.SerializeToString())


def _in_tflite(file: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    content = file.read_bytes()
    interpreter = Interpreter(model_content=content)
    operators = interpreter._get_ops_details()
    made = {int(op["outputs"][0]): int(op["inputs"][0]) for op in operators if op["op_name"] == "DEQUANTIZE"}
    layer = [op for op in operators if op["op_name"] in ("CONV_2D", "FULLY_CONNECTED")][-1]
    weights = int(layer["inputs"][1])
    before = interpreter.get_tensor(made.get(weights, weights))
    assert content.count(before.tobytes()) == 1
    file.write_bytes(content.replace(before.tobytes(), _changed(before).tobytes()))


def _changed(weights: np.ndarray) -> np.ndarray:
    codes = weights.copy()
    at = np.unravel_index(np.abs(codes.astype(int)).argmax(), codes.shape)
    codes[at] = -codes[at]
    return codes
