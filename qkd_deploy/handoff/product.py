"""What is handed over: a file in memory, for whatever runtime, with what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import numpy_helper

from qkd_deploy.errors import UserError
from qkd_deploy.export.decode import decode_path
from qkd_deploy.export.metadata import Metadata, read_metadata
from qkd_deploy.export.settings import ORT
from qkd_deploy.export.targets.ort import CHECK_SESSION
from qkd_deploy.export.targets.record import End, ends_of
from qkd_deploy.export.targets.target import Replayed
from qkd_deploy.gate.onnx_file import OnnxFile
from qkd_deploy.verification.on_target import Subject
from qkd_deploy.verification.onnx_graph import OnnxGraph


@dataclass(frozen=True)
class Product:
    """A file to hand over.

    Attributes:
        name: of the file.
        content: its bytes.
        target, title: of the runtime that it is for, for machines and for people.
        session: source that loads it without this package (``Replayed.check_session``).
        batch: the number of samples that it is fixed to; None where it takes any.
        tolerance: steps of an output's grid by which the runtime may differ.
        metadata: what it says of itself.
        inputs, outputs: in the network's order.
        stub: a model with its inputs, outputs and metadata.
        decode: the file that decodes behind it, by name; None without one.
    """

    name: str
    content: bytes
    target: str
    title: str
    session: str
    batch: int | None
    tolerance: int
    metadata: Metadata
    inputs: tuple[End, ...]
    outputs: tuple[End, ...]
    stub: onnx.ModelProto
    decode: tuple[str, bytes] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample of the first input; sizes that are open are those of the golden images."""
        golden = self.metadata.golden
        return self.inputs[0].shape[1:] if golden is None else golden.recipes[0].shape[1:]

    def sizes(self, end: End) -> list[int | str]:
        """Of an input or output as people read them, with "N" for any number of samples."""
        batch, *others = end.shape
        return [batch or self.batch or "N", *(size or "any" for size in others)]


def product_of(subject: OnnxFile | Subject) -> Product:
    """Take a file that was read as something to hand over.

    Raises:
        UserError: the target does not say how its files are loaded elsewhere, or a decode file is missing.
    """
    if isinstance(subject, OnnxFile):
        return _of_onnx(subject)
    target, record = subject.target, subject.record
    if not isinstance(target, Replayed):
        raise UserError(
            f"the target {target.name} does not say how check.py is to load its files; give it check_session, as "
            "docs/targets.md describes"
        )
    return Product(
        subject.path.name,
        subject.content,
        target.name,
        target.title,
        target.check_session,
        target.batch,
        record.tolerance,
        record.described(),
        record.inputs,
        record.outputs,
        record.stub(),
    )


def _of_onnx(file: OnnxFile) -> Product:
    metadata, graph = read_metadata(file.model), file.model.graph
    return Product(
        file.path.name,
        file.data,
        ORT,
        "ONNX Runtime",
        CHECK_SESSION,
        None,
        0,
        metadata,
        ends_of(graph.input),
        ends_of(graph.output, [*_scales(file.model)]),
        file.model,
        _decode(file.path, metadata),
    )


def _scales(model: onnx.ModelProto) -> Iterator[float | None]:
    """The step of each output's grid, where the last thing that happens is that its codes become values."""
    graph = OnnxGraph(model)
    for name in graph.outputs:
        maker = graph.producers.get(name)
        scale = (
            graph.constants.get(maker.input[1]) if maker is not None and maker.op_type == "DequantizeLinear" else None
        )
        array = None if scale is None else numpy_helper.to_array(scale)
        yield float(array) if array is not None and array.size == 1 else None


def _decode(path: Path, metadata: Metadata) -> tuple[str, bytes] | None:
    if metadata.decode is None or not metadata.decode.file:
        return None
    own = decode_path(path)
    file = own if own.exists() else path.with_name(metadata.decode.file)
    try:
        return file.name, file.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} is handed over with {file}, which decodes its outputs, but that cannot be read "
            f"({error.strerror or error}); put it there, or export the checkpoint again"
        ) from error
