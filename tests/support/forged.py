"""Files whose digests were made to fit, and what a file that was changed must still say to be the same."""

from __future__ import annotations

import contextlib

import onnx

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import PREFIX, read_metadata, write_metadata

_NEED_NOT_FIT = {f"{PREFIX}{key}" for key in ("version", "digests", "golden")}


def entries(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata that ``verify`` compares with a fresh export."""
    return {prop.key: prop.value for prop in model.metadata_props if prop.key not in _NEED_NOT_FIT}


def with_digests(model: onnx.ModelProto) -> bytes:
    """The file with digests that fit, as far as it can be read."""
    with contextlib.suppress(UserError, ValueError, TypeError, UnicodeError, AttributeError):  # too broken for it
        write_metadata(model, read_metadata(model))
    return model.SerializeToString(deterministic=True)
