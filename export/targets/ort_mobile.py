"""ONNX Runtime for mobile apps: its own ``.ort`` format, which reduced builds without a graph optimizer load.

All optimizations are in the file (style "Fixed") but for those that hold on one kind of CPU alone.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from qkd_deploy.errors import UserError
from qkd_deploy.export.targets.onnx_file import RECORD, with_record
from qkd_deploy.export.targets.ort import CHECK_SESSION
from qkd_deploy.export.targets.target import Form, TargetKernel
from qkd_deploy.runtimes.profile import NodeTime, Profiled, profiled

if TYPE_CHECKING:
    from qkd_deploy.graph.integer.model import FrozenModel

_LAYOUTS = ("NchwcTransformer",)
"""Optimizers whose results hold on some x86 CPUs alone."""
_MARK = b"ORTM"
"""At offset 4 of files of the format, as flatbuffers have it."""
_INTEGER = re.compile(
    r"QLinear|QGemm$|ConvInteger|MatMulInteger|NhwcMaxPool|(Clip|MaxPool|Concat|Resize|ReduceMax|ReduceMin|GatherElements)$"
)
"""Kernels that compute on codes in the files of this package, whose floats are in none of them."""
_MOVES = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Pad"}
    | {"Gather", "Split", "Identity", "Cast", "Shape", "Expand", "ConstantOfShape"}
)


class OrtMobile:
    """The target ``ort-mobile``."""

    name, title, extra = "ort-mobile", "ONNX Runtime (.ort)", ""
    modules: tuple[str, ...] = ("onnxruntime",)
    suffix, batch = ".ort", None
    check_session = CHECK_SESSION

    def tolerance(self, frozen: FrozenModel) -> int:
        """Its kernels are those of ONNX Runtime."""
        return 0

    def build(self, frozen: FrozenModel, form: Form, record: str) -> bytes:
        """Optimize the ONNX model and keep what the optimizer made of it.

        Raises:
            UserError: packed weights, which the format cannot hold.
        """
        if form.weights == "packed":
            raise UserError("the .ort format cannot hold packed weights; use --weights int8 (weights='int8' in Python)")
        from qkd_deploy.export.emit import emit  # a session needs no torch

        model = emit(frozen, weights=form.weights, input_type=form.input).model
        return _optimized(with_record(model, record), without=_LAYOUTS)

    def from_onnx(self, model: onnx.ModelProto) -> bytes:
        """Optimize any ONNX model for this machine's CPU, also by layouts of it alone, and keep what that gave."""
        return _optimized(model)

    def beside(self, content: bytes) -> dict[str, bytes]:
        """Operators and types for a reduced build of ONNX Runtime (``--include_ops_by_config``)."""
        from onnxruntime.tools.ort_format_model import create_config_from_models

        logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)  # it would name a folder that is gone
        with tempfile.TemporaryDirectory(prefix="qkd-deploy-") as folder:
            model, config = Path(folder) / "model.ort", Path(folder) / "config"
            model.write_bytes(content)
            create_config_from_models([model], config, enable_type_reduction=True)
            lines = config.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith("#")]  # which name a folder that is gone
        return {".required_operators_and_types.config": "".join(kept).encode()}

    def record(self, content: bytes) -> str | None:
        """Read the record from the flatbuffer."""
        try:
            model = _root(content).Model()
            entries = [model.MetadataProps(i) for i in range(model.MetadataPropsLength())]
            return {entry.Key().decode(): entry.Value().decode() for entry in entries}.get(RECORD)
        except Exception:  # noqa: BLE001  # offsets of another or a damaged file lead anywhere
            return None

    def meaning(self, content: bytes) -> bytes:
        """Everything that a file holds: ONNX Runtime writes constants and types in an order that changes by itself."""
        return json.dumps(_plain(_root(content)), sort_keys=True).encode()

    def load(self, path: Path, threads: int) -> _Session:
        """Load the file as it is, without optimizing it again."""
        return _Session(path, threads)


class _Session:
    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        self.version: str = onnxruntime.__version__
        self._path, self._threads, options = str(path), threads, _loading(threads)
        self._session = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        self._names = [value.name for value in self._session.get_inputs()]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(self._session.run(None, dict(zip(self._names, inputs, strict=True))))

    def node_times(self, inputs: Sequence[np.ndarray], seconds: float) -> tuple[NodeTime, ...]:
        import onnxruntime

        def load(options: Any) -> Profiled:
            session = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
            feeds = dict(zip(self._names, inputs, strict=True))
            return partial(session.run, None, feeds), session.end_profiling

        return profiled(_loading(self._threads), load, seconds=seconds)

    def kernels(self) -> list[TargetKernel]:
        operators = _operators(Path(self._path).read_bytes())  # not while loading, which bench times
        counted = Counter(name for name in operators if name not in _MOVES)
        return [TargetKernel(name, count, bool(_INTEGER.match(name))) for name, count in sorted(counted.items())]


def _root(content: bytes) -> Any:
    """A file as the classes read it that were made from the format's schema."""
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    if content[4:8] != _MARK:
        raise ValueError("another format")
    return InferenceSession.GetRootAsInferenceSession(content, 0)


def _plain(item: Any) -> Any:
    """A table of a flatbuffer and all that it holds; lists of tables are sorted, as their order says nothing."""
    if isinstance(item, bytes):
        return item.decode(errors="replace")
    if type(item).__name__ == "Table":  # the only union in these files: the type of a value, which is a tensor
        from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.TensorTypeAndShape import TensorTypeAndShape

        tensor = TensorTypeAndShape()
        tensor.Init(item.Bytes, item.Pos)
        return _plain(tensor)
    if not hasattr(item, "_tab"):
        return item
    fields = [name for name in vars(type(item)) if f"{name}Length" in vars(type(item))]
    found = {name: _vector(item, name) for name in fields}
    for name, method in vars(type(item)).items():
        if name not in fields and not name.endswith(("AsNumpy", "Length", "IsNone")) and _is_plain(method):
            found[name] = _plain(method(item))
    return found


def _is_plain(method: Any) -> bool:
    return inspect.isfunction(method) and [*inspect.signature(method).parameters] == ["self"]


def _vector(item: Any, name: str) -> Any:
    length, numbers = getattr(item, f"{name}Length")(), getattr(item, f"{name}AsNumpy", None)
    if numbers is not None and length:
        return hashlib.sha256(np.asarray(numbers()).tobytes()).hexdigest()
    values = [_plain(getattr(item, name)(i)) for i in range(length)]
    return sorted(values, key=repr) if any(isinstance(value, dict) for value in values) else values


def _operators(content: bytes) -> list[str]:
    graph = _root(content).Model().Graph()
    return [graph.Nodes(i).OpType().decode() for i in range(graph.NodesLength())]


def _loading(threads: int) -> Any:
    """Options with which a file is loaded as it is."""
    import onnxruntime

    options = _options(threads)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _optimized(model: onnx.ModelProto, without: Sequence[str] = ()) -> bytes:
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="qkd-deploy-") as folder:
        path = Path(folder) / "model.ort"
        options = _options(1)
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.save_model_format", "ORT")
        onnxruntime.InferenceSession(
            model.SerializeToString(deterministic=True),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=[*without],
        )
        return path.read_bytes()


TARGET = OrtMobile()
