"""Signatures of bundles: ed25519 over the manifest, which names every other file by its digest."""

from __future__ import annotations

import base64
import binascii
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qkd_deploy.errors import UserError
from qkd_deploy.handoff.manifest import SIGNATURE, Manifest

_MAKE = "make one with `openssl genpkey -algorithm ed25519 -out key.pem`"
_PUBLIC = "take it from the private key with `openssl pkey -in key.pem -pubout -out public.pem`"


class PrivateKey:
    """Signs manifests."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def signature(self, data: bytes) -> bytes:
        """Sign a manifest; as the text of a file."""
        return base64.b64encode(self._key.sign(data)) + b"\n"


def read_private_key(key: Path) -> PrivateKey:
    """Read the private key in a PEM file.

    Raises:
        UserError: there is no such key, or it needs a pass phrase, or `cryptography` is not installed.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private: Any = load_pem_private_key(_read(key), password=None)
    except TypeError as error:
        raise UserError(f"the key in {key} asks for a pass phrase; give one that is not encrypted") from error
    except ValueError:
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise UserError(f"{key} is no private key of ed25519 in PEM form; {_MAKE}")
    return PrivateKey(private)


def is_signed(bundle: Path, manifest: Manifest, key: Path) -> bool:
    """Whether the manifest of a bundle bears the signature of the owner of a public key, in a PEM file.

    Raises:
        UserError: there is no such key, or `cryptography` is not installed.
    """
    _require_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        public: Any = load_pem_public_key(_read(key))
    except ValueError:
        public = None
    if not isinstance(public, Ed25519PublicKey):
        raise UserError(f"{key} is no public key of ed25519 in PEM form; {_PUBLIC}")
    try:
        public.verify(base64.b64decode((bundle / SIGNATURE).read_bytes()), manifest.data)
    except (InvalidSignature, OSError, binascii.Error):
        return False
    return True


def _read(key: Path) -> bytes:
    try:
        return key.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the key {key}: {error.strerror or error}; give a PEM file") from error


def _require_cryptography() -> None:
    if find_spec("cryptography") is None:
        raise UserError("signatures need cryptography; install it with `pip install 'qkd-deploy[sign]'`")
