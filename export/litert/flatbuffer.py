"""A thin layer over the flatbuffer schema of ``.tflite``: tensors, operators and constants of one graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qkd_deploy.gate.names import GRAPH

FORM = b"TFL3"
"""The identifier of the format, at offset 4 of a file."""
_VERSION = 3
_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.uint8): schema.TensorType.UINT8,
    np.dtype(np.int32): schema.TensorType.INT32,
}


class FlatGraph:
    """Collects tensors and operators; tensors are known by their index."""

    def __init__(self) -> None:
        """Start an empty graph; buffer 0 is empty in every file."""
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.shapes: list[tuple[int, ...]] = []
        self._buffers = [schema.BufferT()]
        self._codes: dict[int, int] = {}
        self._constants: dict[tuple[Any, ...], int] = {}

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: Any = np.float32,
        *,
        scale: Any = None,
        zero_point: int = 0,
        axis: int = 0,
    ) -> int:
        """Add a tensor that an operator makes, or an input.

        Args:
            name: what it is called.
            shape: its sizes.
            dtype: of its elements.
            scale: of codes; a number, or one for each element of ``axis``.
            zero_point: the code that stands for zero.
            axis: the dimension that scales are for.
        """
        made = schema.TensorT()
        made.name, made.type, made.buffer = name, _TYPES[np.dtype(dtype)], 0
        made.shape = np.array(shape, np.int32)
        if scale is not None:
            made.quantization = schema.QuantizationParametersT()
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            made.quantization.scale = scales
            made.quantization.zeroPoint = np.full(len(scales), zero_point, np.int64)
            made.quantization.quantizedDimension = axis
        self.tensors.append(made)
        self.shapes.append(tuple(int(size) for size in shape))
        return len(self.tensors) - 1

    def constant(self, name: str, data: np.ndarray, **quantization: Any) -> int:
        """Add a tensor with fixed elements; equal ones are stored once."""
        data = np.ascontiguousarray(data).reshape(np.shape(data))
        grid = tuple(np.asarray(value).tobytes() for value in quantization.values())
        key = (data.dtype.str, data.shape, data.tobytes(), grid)
        if key not in self._constants:
            index = self.tensor(name, data.shape, data.dtype, **quantization)
            self.tensors[index].buffer = self._buffer(data.tobytes())
            self._constants[key] = index
        return self._constants[key]

    def operator(self, code: str, inputs: Sequence[int], outputs: Sequence[int], options: Any = None) -> None:
        """Append an operator; ``code`` is its name in ``BuiltinOperator``, ``options`` a table of the schema."""
        number = getattr(schema.BuiltinOperator, code)
        made = schema.OperatorT()
        made.opcodeIndex = self._codes.setdefault(number, len(self._codes))
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if options is not None:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            made.builtinOptions = options
        self.operators.append(made)

    def content(self, inputs: Sequence[int], outputs: Sequence[int], record: str, key: str) -> bytes:
        """The file; ``record`` is kept as metadata under ``key``."""
        model, graph = schema.ModelT(), schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = GRAPH, self.tensors, self.operators
        graph.inputs, graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        entry = schema.MetadataT()
        entry.name, entry.buffer = key, self._buffer(record.encode())
        model.version, model.subgraphs, model.metadata = _VERSION, [graph], [entry]
        model.operatorCodes, model.buffers = [_operator_code(code) for code in self._codes], self._buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=FORM)
        return bytes(builder.Output())

    def _buffer(self, data: bytes) -> int:
        made = schema.BufferT()
        made.data = np.frombuffer(data, np.uint8)
        self._buffers.append(made)
        return len(self._buffers) - 1


def _operator_code(number: int) -> Any:
    made = schema.OperatorCodeT()
    made.builtinCode, made.deprecatedBuiltinCode, made.version = number, min(number, 127), 1
    return made
