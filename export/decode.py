"""The decode file: the float tail behind an integer file, as plain float32 ONNX (decision 39)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

import qkd_deploy
from qkd_deploy.errors import UserError
from qkd_deploy.export.emit import emit
from qkd_deploy.export.metadata import (
    DecodeMetadata,
    DecodeRecord,
    DecodesRecord,
    content_digest,
    read_decode_metadata,
    write_decode_metadata,
)
from qkd_deploy.export.opset import tried_runtime, write_for
from qkd_deploy.export.settings import DECODE_SUFFIX
from qkd_deploy.export.targets.ort import trial_run
from qkd_deploy.graph.integer.cut import behind_of, find_cut, front_of
from qkd_deploy.graph.integer.model import FrozenModel

_SAMPLES = 4096
"""Values of an output that a decode file records, at most."""


def decode_path(path: Path | str) -> Path:
    """Name the decode file of an integer file: ``NAME.decode.onnx`` of ``NAME.onnx``."""
    file = Path(path)
    return file.with_name(file.name.removesuffix(".onnx") + DECODE_SUFFIX)


@dataclass(frozen=True)
class Parts:
    """A model in the parts that files are written of.

    Attributes:
        front: the model of the integer file: the whole one, or what is in front of the cut.
        record: what that file says of the tail behind the cut; None where there is no cut.
        decode: that tail as ONNX, without metadata; None where no file is to hold it.
    """

    front: FrozenModel
    record: DecodeRecord | None = None
    decode: onnx.ModelProto | None = None


def parts_of(whole: FrozenModel, tail: str, file: str, opset: int | None) -> Parts:
    """Cut a model where its tail is to be in a file of its own, or in none.

    Args:
        whole: the model.
        tail: "separate", "inside" or "none".
        file: the name of the integer file.
        opset: ONNX's operator set; None is the usual one.

    Raises:
        UserError: the tail has an operation that ONNX cannot express.
    """
    cut = None if tail == "inside" else find_cut(whole)
    if cut is None:
        return Parts(whole)
    if tail == "none":
        return Parts(front_of(whole), DecodeRecord("", "", cut.computed))
    decode = emit(behind_of(whole, cut)).model
    write_for(decode, opset or decode.opset_import[0].version)
    return Parts(front_of(whole), DecodeRecord(decode_path(file).name, content_digest(decode), cut.computed), decode)


def finish_decode(
    parts: Parts, integer: onnx.ModelProto, file: str, maps: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
) -> None:
    """Give a decode file its metadata, in place, and run it.

    Args:
        parts: of the model; nothing is done without a decode file.
        integer: the finished integer file.
        file: the name of that file.
        maps: what the network gives at the cut for the golden inputs of the integer file.
        outputs: what it gives at its end.

    Raises:
        UserError: the runtime cannot run the file, or computes grossly other values.
    """
    if parts.decode is None or parts.record is None:
        return
    sha256 = hashlib.sha256(integer.SerializeToString(deterministic=True)).hexdigest()
    metadata = DecodeMetadata(
        version=qkd_deploy.__version__,
        decodes=DecodesRecord(file, sha256),
        tail=parts.record.tail,
        golden=tuple(map(sampled, outputs)),
        requires_onnxruntime=tried_runtime(parts.decode),
    )
    write_decode_metadata(parts.decode, metadata)
    trial_run(parts.decode, maps, outputs)


def sampled(array: np.ndarray) -> np.ndarray:
    """Take some elements of an array, evenly spread over it in their order: all of a small one."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat[np.linspace(0, max(flat.size - 1, 0), min(flat.size, _SAMPLES)).astype(np.int64)]


def remove_former(path: Path) -> None:
    """Remove the decode file of an earlier export, which would belong to no file; what is not ours stays."""
    with suppress(OSError, DecodeError, UserError):
        if read_decode_metadata(onnx.ModelProto.FromString(path.read_bytes())) is not None:
            path.unlink()
