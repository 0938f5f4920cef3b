"""One file, one meaning: the bytes are exactly those that serialising their model gives.

A reader that skips fields which it does not know, takes the last of two values, or joins parts of a message would see
another model in other bytes. Here all readers see the same one.
"""

from __future__ import annotations

import onnx

from qkd_deploy.gate.refusal import NotAsExportedError


def require_canonical(model: onnx.ModelProto, data: bytes) -> None:
    """Refuse bytes that are not the serialised form of what was parsed from them, without fields unknown to ONNX.

    Raises:
        NotAsExportedError: they are not.
    """
    known = onnx.ModelProto()
    known.CopyFrom(model)
    known.DiscardUnknownFields()
    if known.SerializeToString(deterministic=True) != data:
        raise NotAsExportedError("its bytes hold more, or in another form, than the model that they are read as")
