"""A small network of the digits, exported for ONNX Runtime, keys that sign, and its bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_ways import command
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from digits_checkpoint import save_digits
from fake_target import register

from qkd_deploy.workflows.export import export_checkpoint


@pytest.fixture(scope="session")
def handed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pt, model.onnx, pixels.onnx (which takes them raw), keys, and the signed bundle/."""
    folder = tmp_path_factory.mktemp("handed")
    torch.manual_seed(0)  # a weight whose sign is changed must matter
    save_digits(folder / "model.pt")
    export_checkpoint(folder / "model.pt", folder / "model.onnx")
    export_checkpoint(folder / "model.pt", folder / "pixels.onnx", input="uint8")
    for name in ("own", "other"):
        write_keys(folder, name)
    data = "--dataset digits --limit 16 --images 3 --checkpoint model.pt --licence Apache-2.0"
    done = command(f"handoff model.onnx --out bundle --sign own.key {data}", folder)
    assert done.code == 0, done.err
    return folder


def write_keys(folder: Path, name: str) -> None:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{name}.key").write_bytes(private)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pem").write_bytes(public)


@pytest.fixture
def fake_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target of another package is registered by its entry point."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", register(folder))
    monkeypatch.syspath_prepend(str(folder))
