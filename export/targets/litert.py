"""LiteRT (TensorFlow Lite): ``.tflite`` files in the form that XNNPACK's integer kernels compute exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flatbuffers import encode, number_types, packer
from flatbuffers.table import Table

from qkd_deploy.errors import UserError
from qkd_deploy.export.targets.onnx_file import RECORD
from qkd_deploy.export.targets.target import Form, TargetKernel

if TYPE_CHECKING:
    from qkd_deploy.graph.integer.model import FrozenModel

_MARK = b"TFL3"
"""At offset 4 of files of the format, as flatbuffers have it."""
_BUFFERS, _METADATA = 4, 6
"""Fields of a model in the schema of the format."""
_MOVES = frozenset(
    {
        "QUANTIZE",
        "DEQUANTIZE",
        "TRANSPOSE",
        "RESHAPE",
        "SLICE",
        "STRIDED_SLICE",
        "PAD",
        "PADV2",
        "CONCATENATION",
        "CAST",
    }
)
_OUTSIDE = frozenset({"GATHER", "ADD", "REDUCE_MIN"})
"""Operators on whole numbers that other kernels than XNNPACK's compute as well."""

_CHECK_SESSION = """
def load(path, threads):
    import ai_edge_litert
    import numpy
    from ai_edge_litert.interpreter import Interpreter

    with open(path, "rb") as file:
        interpreter = Interpreter(model_content=file.read(), num_threads=threads)
    interpreter.allocate_tensors()

    def run(inputs):
        for entry, array in zip(interpreter.get_input_details(), inputs):
            interpreter.set_tensor(entry["index"], numpy.ascontiguousarray(array))
        interpreter.invoke()
        return [interpreter.get_tensor(entry["index"]) for entry in interpreter.get_output_details()]

    return "LiteRT " + ai_edge_litert.__version__, run
""".strip()


class LiteRt:
    """The target ``litert``."""

    name, title, extra = "litert", "LiteRT (XNNPACK)", "litert"
    modules: tuple[str, ...] = ("ai_edge_litert",)
    suffix, batch = ".tflite", 1
    check_session = _CHECK_SESSION

    def tolerance(self, frozen: FrozenModel) -> int:
        """What has no exact form is not written."""
        return 0

    def build(self, frozen: FrozenModel, form: Form, record: str) -> bytes:
        """Write the file.

        Raises:
            UserError: packed weights, or an operation of which XNNPACK has no exact form.
        """
        if form.weights == "packed":
            raise UserError(
                "LiteRT takes packed weights in no convolution; use --weights int8 (weights='int8' in Python)"
            )
        from qkd_deploy.export.litert.emit import emit_tflite  # a session needs no torch

        return emit_tflite(frozen, input_type=form.input, record=record, key=RECORD)

    def beside(self, content: bytes) -> dict[str, bytes]:
        """Nothing."""
        return {}

    def record(self, content: bytes) -> str | None:
        """Read the record from the metadata of the flatbuffer."""
        try:
            return _metadata(content).get(RECORD)
        except Exception:  # noqa: BLE001  # offsets of another or a damaged file lead anywhere
            return None

    def meaning(self, content: bytes) -> bytes:
        """All bytes."""
        return content

    def load(self, path: Path, threads: int) -> _Session:
        """Load the file with XNNPACK, which the interpreter takes by itself."""
        return _Session(path, threads)


class _Session:
    def __init__(self, path: Path, threads: int) -> None:
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter

        self.version: str = ai_edge_litert.__version__
        self._interpreter: Any = Interpreter(model_content=path.read_bytes(), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._inputs = [entry["index"] for entry in self._interpreter.get_input_details()]
        self._outputs = [entry["index"] for entry in self._interpreter.get_output_details()]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        for index, array in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, np.ascontiguousarray(array))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def kernels(self) -> list[TargetKernel]:
        counted: Counter[tuple[str, bool]] = Counter()
        operators = self._interpreter._get_ops_details()  # there is no public way to see them
        taken = _taken(operators)
        for operator in operators:
            name, integer = operator["op_name"], np.int8 in operator["result_types"]
            if name in _MOVES or name == "DELEGATE":
                continue
            outside = operator["index"] not in taken
            whole = np.issubdtype(operator["result_types"][0], np.integer)
            if outside and not (name in _OUTSIDE and whole):
                name, integer = f"{name} without XNNPACK", False
            counted[name, integer or (outside and whole and name in _OUTSIDE)] += 1
        return [TargetKernel(name, count, integer) for (name, integer), count in sorted(counted.items())]


def _taken(operators: Sequence[dict[str, Any]]) -> set[int]:
    """The operators that XNNPACK computes: those between what its parts of the graph read and what they make."""
    maker = {int(made): operator for operator in operators for made in operator["outputs"]}
    maker |= {int(made): operator for operator in operators for made in operator["outputs"] if _is_own(operator)}
    found: set[int] = set()
    for part in (operator for operator in operators if not _is_own(operator)):
        read, wanted = {int(index) for index in part["inputs"]}, [int(index) for index in part["outputs"]]
        while wanted:
            operator = maker.get(wanted.pop())
            if operator is not None and operator["index"] not in found:
                found.add(operator["index"])
                wanted += [int(index) for index in operator["inputs"] if int(index) not in read]
    return found


def _is_own(operator: dict[str, Any]) -> bool:
    return bool(operator["op_name"] != "DELEGATE")


# -- what a file says of itself ----------------------------------------------------------------------------------------


def _metadata(content: bytes) -> dict[str, str]:
    """The texts that a file keeps as metadata; read by the rules of flatbuffers, without the runtime."""
    if content[4:8] != _MARK:
        return {}
    model = Table(content, encode.Get(packer.uoffset, content, 0))
    buffers, found = _tables(model, _BUFFERS), {}
    for entry in _tables(model, _METADATA):
        number = entry.GetSlot(_slot(1), 0, number_types.Uint32Flags)
        buffer = buffers[number]
        at = buffer.Offset(_slot(0))
        start, length = buffer.Vector(at), buffer.VectorLen(at)
        name = entry.String(entry.Offset(_slot(0)) + entry.Pos)
        found[name.decode()] = content[start : start + length].decode()
    return found


def _slot(field: int) -> int:
    return 4 + 2 * field


def _tables(table: Table, field: int) -> list[Table]:
    at = table.Offset(_slot(field))
    start = table.Vector(at)
    return [Table(table.Bytes, table.Indirect(start + 4 * i)) for i in range(table.VectorLen(at))]


TARGET = LiteRt()
