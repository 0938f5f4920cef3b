"""The manifest of a bundle: the digest of every file, and what ``check.py`` has to know."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from qkd_deploy.errors import UserError
from qkd_deploy.handoff.golden import GoldenSet
from qkd_deploy.handoff.product import Product
from qkd_deploy.verification.checks.decode import TOLERANCE

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
_FORMAT = "qkd-deploy bundle 1"
_LARGEST = 16 * 2**20


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds.

    Attributes:
        data: the bytes of the manifest, which a signature is of.
        model: the name of the model file.
        files: SHA-256 of every other file, by its name in the bundle.
    """

    data: bytes
    model: str
    files: Mapping[str, str]


def manifest_of(product: Product, files: Mapping[str, bytes], golden: Mapping[str, GoldenSet]) -> bytes:
    """Write the manifest of the files of a bundle."""
    decode = None
    if product.decode is not None:
        count = max((len(one.decoded) for one in golden.values()), default=0)
        decode = {"file": product.decode[0], "outputs": count, "tolerance": TOLERANCE}
    content: dict[str, Any] = {
        "format": _FORMAT,
        "model": product.name,
        "target": product.target,
        "batch": product.batch,
        "tolerance": product.tolerance,
        "inputs": [{"name": end.name, "dtype": end.dtype} for end in product.inputs],
        "outputs": [{"name": end.name, "dtype": end.dtype, "scale": end.scale} for end in product.outputs],
        "decode": decode,
        "golden": list(golden),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def is_bundle(path: Path) -> bool:
    """Whether a folder has a manifest."""
    return path.is_dir() and (path / MANIFEST).is_file()


def read_manifest(bundle: Path) -> Manifest:
    """Read the manifest of a bundle.

    Raises:
        UserError: there is none, or it is none of ours.
    """
    file = bundle / MANIFEST
    try:
        if file.stat().st_size > _LARGEST:
            raise ValueError("too large")
        data = file.read_bytes()
        content = json.loads(data)
        files = content["files"]
        if content["format"] != _FORMAT or content["model"] not in files or not all(map(_is_inside, files)):
            raise ValueError("another format")
        return Manifest(data, content["model"], {str(name): str(digest) for name, digest in files.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{bundle} is no bundle: its {MANIFEST} is missing or cannot be read; give the folder that "
            "`qkd-deploy handoff` wrote"
        ) from error


def differences(bundle: Path, manifest: Manifest) -> list[str]:
    """Say which files of a bundle are missing, changed, or were not packed."""
    found = []
    for name, digest in manifest.files.items():
        try:
            data = (bundle / name).read_bytes()
        except OSError:
            found.append(f"{name} is missing")
            continue
        if hashlib.sha256(data).hexdigest() != digest:
            found.append(f"{name} is not the file that was packed")
    return [*found, *(f"{name} was not packed" for name in strangers(bundle, manifest))]


def strangers(bundle: Path, manifest: Manifest) -> list[str]:
    """Files in a bundle's folder that it does not name."""
    known = {*manifest.files, MANIFEST, SIGNATURE}
    there = (path for path in bundle.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(name for path in there if (name := path.relative_to(bundle).as_posix()) not in known)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and "\\" not in name and not path.is_absolute() and ".." not in path.parts
