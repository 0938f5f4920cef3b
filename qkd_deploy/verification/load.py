"""Reads a model file, or says in one sentence why it cannot be read."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import onnx

from qkd_deploy.errors import UserError, require_kind


def load_model(path: Path | str) -> onnx.ModelProto:
    """Parse an ONNX file with its constants.

    Raises:
        UserError: there is no such file, it cannot be read, or it is no ONNX model.
    """
    require_kind(path, (str, PathLike), "the ONNX file", "give its path")
    file = Path(path)
    try:
        model = onnx.load(file)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {error.filename or file}; write one with `qkd-deploy export`") from error
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot read {file}: {reason}; give the file that `qkd-deploy export` wrote") from error
    except Exception as error:  # the protobuf parser's own errors, or external constants that cannot be read
        raise UserError(f"{file} is no ONNX model, or it is damaged; export it again") from error
    if not model.graph.node:
        raise UserError(f"{file} is no ONNX model: it holds no operators; give the file that `qkd-deploy export` wrote")
    return model
