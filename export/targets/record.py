"""What a file for a target says of itself: the metadata of an exported file, its inputs and outputs, its digest.

A record is stored as base64 text of JSON, verbatim and once, in whatever place a file format has for strings: so its
digest can be checked, and set, without knowing the format.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import onnx
from onnx import helper
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import PREFIX, Metadata, read_metadata
from qkd_deploy.export.metadata.fields import EXACT, Positive, Sha256

_LONGEST = 64 * 2**20
"""Characters of a record that is read."""

Kind = Literal["float32", "uint8", "int8", "int16", "int32", "int64", "bool"]


@dataclass(frozen=True)
class End:
    """An input or output: its name, its shape (0 for the batch), its type, and the grid of an output's codes."""

    __pydantic_config__: ClassVar[ConfigDict] = EXACT

    name: str
    shape: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...]
    dtype: Kind = "float32"
    scale: Positive | None = None


@dataclass(frozen=True)
class TargetRecord:
    """Everything that a file for a target says of itself.

    Attributes:
        target: its name.
        runtime: version of the runtime that ran it before it was handed out.
        tolerance: steps of an output's grid by which that runtime may differ.
        inputs, outputs: in the network's order.
        metadata: entries of an exported file (``Metadata``), without their prefix.
        content: SHA-256 of the file without its record.
    """

    __pydantic_config__: ClassVar[ConfigDict] = EXACT

    target: str
    runtime: str
    tolerance: Annotated[int, Field(ge=0, le=255)]
    inputs: tuple[End, ...]
    outputs: tuple[End, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    content: Sha256 = "0" * 64

    @property
    def text(self) -> str:
        """As it is stored: the same for the same record, and as long whatever the digest is."""
        return base64.b64encode(json.dumps(asdict(self), sort_keys=True).encode()).decode("ascii")

    def digest(self, content: bytes) -> str:
        """SHA-256 of a file that holds this record, without it.

        Raises:
            ValueError: it holds the record nowhere, or in more than one place.
        """
        before, text, behind = content.partition(self.text.encode())
        if not text or self.text.encode() in behind:
            raise ValueError("a record is stored verbatim, and once")
        return hashlib.sha256(before + behind).hexdigest()

    def stub(self) -> onnx.ModelProto:
        """A model without operators that has the inputs, outputs and metadata: what data are read for."""
        inputs, outputs = ([_value(end) for end in ends] for ends in (self.inputs, self.outputs))
        graph = helper.make_graph([], "stub", inputs, outputs)
        model = helper.make_model(graph)
        helper.set_model_props(model, {PREFIX + key: value for key, value in self.metadata.items()})
        return model

    def described(self) -> Metadata:
        """The metadata, parsed.

        Raises:
            UserError: an entry is missing or cannot be read.
        """
        return read_metadata(self.stub())


_RECORD = TypeAdapter(TargetRecord)


def read_record(text: str, file: str) -> TargetRecord:
    """Parse the record of a file.

    Raises:
        UserError: it is not what ``TargetRecord.text`` writes.
    """
    if len(text) <= _LONGEST:
        with suppress(binascii.Error, ValidationError, ValueError):
            return _RECORD.validate_json(base64.b64decode(text, validate=True))
    raise UserError(f"what {file} says of itself cannot be read, so that it was changed or damaged; export it again")


def ends_of(values: Sequence[onnx.ValueInfoProto], scales: Sequence[float | None] = ()) -> tuple[End, ...]:
    """Inputs or outputs of an ONNX graph, with the scales of outputs."""
    known = [*scales, *[None] * (len(values) - len(scales))]
    return tuple(_end(value, scale) for value, scale in zip(values, known, strict=True))


def _end(value: onnx.ValueInfoProto, scale: float | None) -> End:
    tensor = value.type.tensor_type
    kind: Any = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return End(value.name, tuple(d.dim_value for d in tensor.shape.dim), kind, scale)


def _value(end: End) -> onnx.ValueInfoProto:
    shape = [size or "batch" for size in end.shape]
    return helper.make_tensor_value_info(end.name, helper.np_dtype_to_tensor_dtype(np.dtype(end.dtype)), shape)
