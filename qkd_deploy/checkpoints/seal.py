"""Seals: the SHA-256 of a zip file, such as ``torch.save`` writes, in the comment at its end, which all readers skip.

    file  =  body + comment,    comment  =  "qkd-deploy sha256 " + 64 hexadecimal digits of SHA-256(body)

The last two bytes of the body are the comment's length, so that every byte of a sealed file is covered. A seal tells
damage; whoever changes a file on purpose can seal it again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

from qkd_deploy.errors import UserError

_MARK = b"qkd-deploy sha256 "
_LENGTH = len(_MARK) + 2 * hashlib.sha256().digest_size
_NO_COMMENT = b"\0\0"
"""How a zip file without a comment ends: with the comment's length, a little-endian number of two bytes."""
_CHUNK = 1 << 20


class Digests(NamedTuple):
    """What was found out about a file's bytes: SHA-256 of all of them, and whether a seal vouches for them."""

    sha256: str
    sealed: bool


def sealed(archive: bytes) -> bytes:
    """Seal the bytes of a zip file without a comment."""
    assert archive.endswith(_NO_COMMENT)
    body = archive[: -len(_NO_COMMENT)] + _LENGTH.to_bytes(2, "little")
    return body + _MARK + hashlib.sha256(body).hexdigest().encode()


def digests(file: BinaryIO, source: Path | str) -> Digests:
    """Hash a file from its beginning to its end, and compare it with its seal where it has one.

    Args:
        file: is read to its end.
        source: its name, for messages.

    Raises:
        UserError: the file has a seal, and another content.
    """
    running, last = hashlib.sha256(), b""
    while chunk := file.read(_CHUNK):
        held = last + chunk
        running.update(held[:-_LENGTH])
        last = held[-_LENGTH:]
    body = running.hexdigest()
    running.update(last)
    has_seal = last.startswith(_MARK)
    if has_seal and last != _MARK + body.encode():
        raise UserError(f"{source} is damaged: its content is not what its digest was made of; use another copy of it")
    return Digests(running.hexdigest(), has_seal)
