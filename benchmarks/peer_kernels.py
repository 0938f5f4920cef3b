"""Which kernels compute in integers and which in float, in a file of any tool."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import openvino

from qkd_deploy.export.metadata import Metadata
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.verification.checks.kernels import list_all

_NO_METADATA = Metadata(version=0, bits="", placement="")
_COMPUTES = {"Convolution", "FullyConnected", "Eltwise", "Pooling", "Subgraph", "MatMul"}


def ort_kernels(model: onnx.ModelProto) -> dict[str, dict[str, int]]:
    """Operators by how often ONNX Runtime computes them in integers and in float, after its optimizations."""
    kernels = list_all(model, OnnxRuntime().optimized_graph(model), _NO_METADATA)
    return _counted([(kernel.op, kernel.integer) for kernel in kernels])


def openvino_kernels(path: Path) -> dict[str, dict[str, int]]:
    """Layers by how often OpenVINO computes them in integers and in float, as its runtime graph says."""
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).get_runtime_model()
    found = []
    for node in model.get_ordered_ops():
        kind, precision = (_text(node, key) for key in ("layerType", "runtimePrecision"))
        if kind in _COMPUTES:
            found.append((kind, precision in ("i8", "u8")))
    return _counted(found)


def _text(node: Any, key: str) -> str:
    info = node.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""


def _counted(kernels: list[tuple[str, bool]]) -> dict[str, dict[str, int]]:
    return {
        name: dict(Counter(kind for kind, integer in kernels if integer is wanted).most_common())
        for name, wanted in (("integer", True), ("float", False))
    }
