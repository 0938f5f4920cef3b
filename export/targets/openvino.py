"""OpenVINO's CPU plugin: an ONNX file whose codes are made by FakeQuantize, of which it builds its int8 kernels.

The file wants ``INFERENCE_PRECISION_HINT=f32``: with bfloat16, which the plugin prefers where the CPU has it, what
stands between the integer kernels is rounded to eight bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from qkd_deploy.errors import UserError
from qkd_deploy.export.targets.onnx_file import record_in, serialized, with_record
from qkd_deploy.export.targets.target import Form, TargetKernel

if TYPE_CHECKING:
    from qkd_deploy.graph.integer.model import FrozenModel

_WIDE = 8
"""Bits at which results may be off by the tolerance."""
_TOLERANCE = 2
_MOVES = frozenset(
    {"Input", "Output", "Const", "Reorder", "Reshape", "Transpose", "Split", "StridedSlice", "Concatenation", "Pad"}
)
"""Nodes of the execution graph that compute nothing."""


_CHECK_SESSION = """
def load(path, threads):
    import numpy
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    core = openvino.Core()
    with open(path, "rb") as file:
        compiled = core.compile_model(core.read_model(file.read()), "CPU", options)

    def run(inputs):
        found = compiled([numpy.ascontiguousarray(array) for array in inputs])
        return [numpy.array(found[output]) for output in compiled.outputs]

    return "OpenVINO " + openvino.__version__.partition("-")[0], run
""".strip()


class OpenVino:
    """The target ``openvino``."""

    name, title, extra = "openvino", "OpenVINO (CPU)", "openvino"
    modules: tuple[str, ...] = ("openvino",)
    suffix, batch = ".openvino.onnx", 1
    check_session = _CHECK_SESSION

    def tolerance(self, frozen: FrozenModel) -> int:
        """None below eight bits; two steps where activations have eight, or LayerNorm and softmax are computed."""
        kinds = {node.kind for node in frozen.graph.nodes}
        quantizers = [node for node in frozen.graph.nodes if node.source is not None]
        sources = {frozen.grid(node.source).bits for node in quantizers if node.source is not None}
        wide = bool(sources) and min(sources) >= _WIDE
        return _TOLERANCE if wide or kinds & {"layer_norm", "softmax", "weighted_mean"} else 0

    def build(self, frozen: FrozenModel, form: Form, record: str) -> bytes:
        """Write the model for one sample.

        Raises:
            UserError: packed weights, of which the plugin makes no integer kernels, or an operation without a form.
        """
        if form.weights == "packed":
            raise UserError("OpenVINO takes no packed weights; use --weights int8 (weights='int8' in Python)")
        from qkd_deploy.export.openvino.emit import draw_model  # a session needs no torch

        return serialized(with_record(draw_model(frozen, input_type=form.input), record))

    def beside(self, content: bytes) -> dict[str, bytes]:
        """Nothing."""
        return {}

    def record(self, content: bytes) -> str | None:
        """Read the record from the metadata of the ONNX model."""
        return record_in(content)

    def meaning(self, content: bytes) -> bytes:
        """All bytes."""
        return content

    def from_onnx(self, model: onnx.ModelProto) -> bytes:
        """OpenVINO reads ONNX as it is."""
        return serialized(model)

    def load(self, path: Path, threads: int) -> _Session:
        """Compile the model for the CPU, in float32 between integer kernels."""
        return _Session(path, threads)


class _Session:
    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        self.version: str = openvino.__version__.partition("-")[0]
        core = openvino.Core()
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        self._compiled: Any = core.compile_model(core.read_model(path.read_bytes()), "CPU", options)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        found = self._compiled([np.ascontiguousarray(array) for array in inputs])
        return [np.array(found[output]) for output in self._compiled.outputs]

    def kernels(self) -> list[TargetKernel]:
        counted: Counter[tuple[str, bool]] = Counter()
        for node in self._compiled.get_runtime_model().get_ops():
            facts = {key: str(value.astype(str)) for key, value in node.get_rt_info().items()}
            kind = facts.get("layerType", "")
            if kind and kind not in _MOVES:
                counted[kind, facts.get("runtimePrecision", "") in ("i8", "u8")] += 1
        return [TargetKernel(name, count, integer) for (name, integer), count in sorted(counted.items())]


TARGET = OpenVino()
