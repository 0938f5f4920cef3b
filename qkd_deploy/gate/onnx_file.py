"""An ONNX file, read once: the bytes that are hashed, parsed, interpreted and given to the runtime are the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from qkd_deploy.errors import UserError
from qkd_deploy.gate.canonical import require_canonical
from qkd_deploy.gate.cost import Cost, cost_of
from qkd_deploy.gate.form import require_form
from qkd_deploy.gate.graph import require_graph
from qkd_deploy.gate.names import PREFIX

LARGEST_FILE = 2**31 - 1
"""Bytes: what the format of ONNX files can hold."""


@dataclass(frozen=True)
class OnnxFile:
    """A file as it was when it was read.

    Attributes:
        path: where it was.
        data: its bytes.
        model: what they say.
    """

    path: Path
    data: bytes
    model: onnx.ModelProto

    @cached_property
    def sha256(self) -> str:
        """Digest of the bytes, in hexadecimal digits."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def cost(self) -> Cost:
        """What running it takes; for files that the gate has let through."""
        return cost_of(self.model)


def read_onnx(path: Path | str) -> OnnxFile:
    """Read and parse any ONNX file; constants that lie in other files are not read.

    Raises:
        UserError: there is no such file, it cannot be read, or it is no ONNX model.
    """
    file = Path(path)
    data = _bytes_of(file)
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise UserError(f"{file} is no ONNX model, or it is damaged; export it again") from error
    if not model.graph.node:
        raise UserError(f"{file} is no ONNX model: it holds no operators; give the file that `qkd-deploy export` wrote")
    return OnnxFile(file, data, model)


def read_exported(path: Path | str) -> OnnxFile:
    """Read a file that ``qkd-deploy export`` wrote, and refuse any that it cannot have written.

    Nothing of the file runs here. What is behind this function may trust that the bytes have one meaning: the model
    gives them back when it is serialised, each name stands for one thing, each constant holds what its shape says,
    operators are those of ONNX without control flow and chance, and all sizes are bounded.

    Raises:
        UserError: as ``read_onnx``, or the file was not exported by this package, or was changed into a form that it
            never writes.
    """
    file = read_onnx(path)
    require_exported(file.model, file.data)
    return file


def require_exported(model: onnx.ModelProto, data: bytes) -> None:
    """Refuse a model that ``qkd-deploy export`` cannot have written.

    Args:
        model: what ``data`` say.
        data: the bytes of the file.

    Raises:
        NotAsExportedError: with what is wrong.
        UserError: the file does not claim to be exported by this package.
    """
    if not any(str(entry.key).startswith(PREFIX) for entry in model.metadata_props):
        raise UserError(
            f"not exported by qkd-deploy: the file has no metadata entry {PREFIX}version; "
            "write it with `qkd-deploy export`"
        )
    require_canonical(model, data)
    require_form(model)
    require_graph(model, data)


def _bytes_of(file: Path) -> bytes:
    try:
        if file.exists() and not file.is_file():
            kind = "Is a directory" if file.is_dir() else "it is no regular file"
            raise UserError(f"cannot read {file}: {kind}; give the file that `qkd-deploy export` wrote")
        if file.stat().st_size > LARGEST_FILE:
            raise UserError(f"{file} is larger than an ONNX model can be (2 GiB); export it again")
        return file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"there is no file {file}; write one with `qkd-deploy export`") from error
    except (OSError, ValueError) as error:  # a path with a null character is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {file}: {reason}; give the file that `qkd-deploy export` wrote") from error
