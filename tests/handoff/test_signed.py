"""``verify`` refuses a bundle of another signer or content, and verifies the model in any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_ways import Answer, command
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from qkd_deploy.handoff import signature as signatures


@pytest.fixture
def folder(handed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(handed, tmp_path / "own"))


def verify(folder: Path, words: str) -> Answer:
    return command(f"verify {words}", folder)


def test_a_bundle_is_verified_with_the_model_in_it(folder: Path) -> None:
    done = verify(folder, "bundle --key own.pem --checkpoint model.pt")
    assert done.code == 0 and "signed by the owner of own.pem" in done.out
    assert done.out.splitlines()[-1].startswith("VERIFIED")


def test_another_signer_fails(folder: Path) -> None:
    done = verify(folder, "bundle --key other.pem")
    assert done.code == 1 and done.out.splitlines()[-1].startswith("FAILED bundle: bundle: it is not signed by")
    manifest = (folder / "bundle/manifest.json").read_text()
    (folder / "bundle/manifest.json").write_text(manifest.replace('"tolerance": 0', '"tolerance": 9'))
    done = verify(folder, "bundle --key own.pem")
    assert done.code == 1 and "it is not signed by the owner of own.pem" in done.out
    assert " kB" not in done.out  # nothing is said of a file that was not read
    (folder / "bundle/manifest.sig").unlink()
    assert "FAILED bundle: bundle: it is not signed\n" in verify(folder, "bundle --key own.pem").out


def test_other_content_fails(folder: Path) -> None:
    (folder / "bundle/more.txt").write_text("a stowaway")
    (folder / "bundle/labels.txt").write_text("changed")
    for key in ("", "--key own.pem"):
        done = verify(folder, f"bundle {key}")
        assert done.code == 1 and "labels.txt is not the file that was packed" in done.out
        assert "more.txt was not packed" in done.out
    (folder / "bundle/labels.txt").unlink()
    assert "labels.txt is missing" in verify(folder, "bundle").out


def test_keys_that_are_none_are_named(folder: Path) -> None:
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "ec.key").write_bytes(other)
    own = load_pem_private_key((folder / "own.key").read_bytes(), None)
    locked = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    (folder / "locked.key").write_bytes(locked)
    for key, said in (
        ("ec.key", "is no private key of ed25519 in PEM form; make one with `openssl genpkey -algorithm ed25519"),
        ("model.pt", "is no private key of ed25519 in PEM form"),
        ("locked.key", "asks for a pass phrase; give one that is not encrypted"),
        ("nowhere.key", "cannot read the key nowhere.key: No such file or directory; give a PEM file"),
    ):
        done = command(f"handoff model.onnx --out new --sign {key}", folder)
        assert done.code == 2 and said in done.err, done.err
        assert not (folder / "new").exists()
    assert command("handoff model.onnx --out new --sign own.key", folder).code == 0
    done = verify(folder, "bundle --key own.key")
    assert done.code == 2 and "is no public key of ed25519 in PEM form; take it from the private key" in done.err
    assert verify(folder, "new --key own.pem").code == 0


def test_a_key_is_read_before_anything_is_verified(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("qkd_deploy.workflows.handoff.verify_deployed", None)
        assert command("handoff model.onnx --out new --sign own.pem", folder).code == 2


def test_keys_are_for_bundles(folder: Path) -> None:
    done = verify(folder, "model.onnx --key own.pem")
    assert done.code == 2 and "model.onnx is no bundle, and only bundles are signed; leave --key out" in done.err
    assert verify(folder, "model.onnx").code == 0
    (folder / "empty").mkdir()
    assert "only bundles are signed" in verify(folder, "empty --key own.pem").err
    manifest = folder / "bundle/manifest.json"
    content = manifest.read_bytes()
    manifest.write_text("{}")
    done = verify(folder, "bundle")
    assert done.code == 2 and "is no bundle: its manifest.json is missing or cannot be read" in done.err
    manifest.write_bytes(content)
    assert verify(folder, "bundle").code == 0


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(signatures, "find_spec", lambda name: None)
        done = verify(folder, "bundle --key own.pem")
    assert done.code == 2 and "install it with `pip install 'qkd-deploy[sign]'`" in done.err
    assert verify(folder, "bundle --key own.pem").code == 0
