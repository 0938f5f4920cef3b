"""ONNX Runtime on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from qkd_deploy.runtimes.runtime import RuntimeFault, SessionInput

_PROVIDERS = ["CPUExecutionProvider"]


class OnnxRuntime:
    """ONNX Runtime with its CPU kernels."""

    name = "ONNX Runtime"
    version: str = onnxruntime.__version__

    def session(
        self, model: onnx.ModelProto | bytes | Path, threads: int = 1, *, precise: bool = False, optimized: bool = True
    ) -> OrtSession:
        """Load a model; ``precise`` sets ``session.x64quantprecision``, with which no 8-bit sum saturates.

        Raises:
            RuntimeFault: the model cannot be loaded.
        """
        options = session_options(threads)
        if precise:
            options.add_session_config_entry("session.x64quantprecision", "1")
        if not optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return OrtSession(model, options)

    def optimized_graph(self, model: onnx.ModelProto | bytes) -> onnx.ModelProto:
        """The graph after all optimizations, with the fused kernels of this machine.

        Raises:
            RuntimeFault: the model cannot be loaded.
        """
        with tempfile.TemporaryDirectory(prefix="qkd-deploy-") as folder:
            path = Path(folder) / "optimized.onnx"
            options = session_options(threads=1)
            options.optimized_model_filepath = str(path)
            OrtSession(model, options)
            return onnx.load(path)


class OrtSession:
    """One session of ONNX Runtime."""

    def __init__(self, model: onnx.ModelProto | bytes | Path, options: onnxruntime.SessionOptions) -> None:
        """Load a model, its bytes or a file.

        Raises:
            RuntimeFault: the model cannot be loaded.
        """
        try:
            self._session = onnxruntime.InferenceSession(_source(model), options, providers=_PROVIDERS)
        except Exception as error:  # onnxruntime's errors have no public common base
            raise _fault(error) from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    @property
    def inputs(self) -> tuple[SessionInput, ...]:
        """Inputs in graph order."""
        return tuple(
            SessionInput(value.name, tuple(map(_size, value.shape)), _dtype(value.type))
            for value in self._session.get_inputs()
        )

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the outputs of one batch, by name and in graph order.

        Raises:
            RuntimeFault: the inputs do not fit the model.
        """
        try:
            results = self._session.run(None, dict(feeds))
        except Exception as error:  # onnxruntime's errors have no public common base
            raise _fault(error) from error
        return dict(zip(self._outputs, results, strict=True))

    def end_profiling(self) -> str:
        """End the profile that the session's options asked for, and name the file that it is in."""
        return str(self._session.end_profiling())


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """All optimizations, a fixed number of threads that sleep when idle, so that sessions do not disturb each other."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # whatever mark the bytes bear
    return options


def _source(model: onnx.ModelProto | bytes | Path) -> str | bytes:
    if isinstance(model, Path):
        return str(model)
    return model if isinstance(model, bytes) else model.SerializeToString()


def _size(dimension: int | str | None) -> int | None:
    return dimension if isinstance(dimension, int) else None


def _dtype(kind: str) -> np.dtype[Any]:
    """The elements of ``tensor(kind)``; float32 for those that NumPy does not have."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    try:
        return np.dtype({"float": "float32", "double": "float64"}.get(name, name))
    except TypeError:
        return np.dtype(np.float32)


def _fault(error: Exception) -> RuntimeFault:
    return RuntimeFault(str(error).strip() or type(error).__name__)
