"""Integer additions and multiplications on all pairs of codes: in every form of a CPU, and in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx

from qkd_deploy.graph.exact import add_scale
from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.verification.runtime import RuntimeModel


def all_pairs(a: CodeRange, b: CodeRange) -> tuple[np.ndarray, np.ndarray]:
    """Centered codes of both operands, one entry per pair."""
    left, right = np.meshgrid(np.arange(a.lo, a.hi + 1), np.arange(b.lo, b.hi + 1), indexing="ij")
    return left.ravel(), right.ravel()


def pairs(a: CodeRange, b: CodeRange, out: CodeRange) -> dict[str, np.ndarray]:
    """Every form of an addition on all pairs of codes."""
    left, right = all_pairs(a, b)
    forms = add_scale._runtime_forms(left, right, a, b, out)
    found = {f"form {i}": form for i, form in enumerate(forms)}
    return {"definition": add_scale._definition(left, right, a, b, out), **found}


def runtime_add(a: CodeRange, b: CodeRange, out: CodeRange) -> np.ndarray:
    """All pairs of codes through ONNX Runtime's QLinearAdd; centered codes."""
    return runtime_pairs("Add", a, b, out)


def runtime_pairs(operator: str, a: CodeRange, b: CodeRange, out: CodeRange) -> np.ndarray:
    """All pairs of codes through an operator between quantizers; centered codes."""
    left, right = all_pairs(a, b)
    nodes, constants = [], {}
    for name, grid in (("a", a), ("b", b), ("y", out)):
        constants[f"{name}s"] = np.array(grid.scale, np.float32)
        constants[f"{name}z"] = np.array(grid.zero_point, np.uint8)
    for name in "ab":
        nodes.append(onnx.helper.make_node("DequantizeLinear", [name, f"{name}s", f"{name}z"], [f"{name}f"]))
    nodes.append(onnx.helper.make_node(operator, ["af", "bf"], ["f"]))
    nodes.append(onnx.helper.make_node("QuantizeLinear", ["f", "ys", "yz"], ["y"]))
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.UINT8, [left.size]) for n in "aby"]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = onnx.helper.make_graph(nodes, "g", values[:2], values[2:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    feeds = {"a": left + a.zero_point, "b": right + b.zero_point}
    got = RuntimeModel(model).run({name: codes.astype(np.uint8) for name, codes in feeds.items()})["y"]
    return np.asarray(np.clip(got.astype(int) - out.zero_point, out.lo, out.hi))


def signed(scale: float) -> CodeRange:
    """An 8-bit grid with zero point 128."""
    return CodeRange(float(np.float32(scale)), 128, -128, 127)


def unsigned(scale: float) -> CodeRange:
    """An 8-bit grid with zero point 0."""
    return CodeRange(float(np.float32(scale)), 0, 0, 255)
