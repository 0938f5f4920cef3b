"""Ways out of archives with weights, and of safetensors files, that cannot be read."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import save_file
from saved_weights import WEIGHTS, gives_weights, saved
from ways import Way, follow, require_all

from qkd_deploy.checkpoints.weights import read_weights
from qkd_deploy.errors import UserError

TEST = "tests/packaging/ways/test_weights_archive_ways.py::test_the_way_out_works"


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("pkg/__init__.py", "")
        for name in names:
            file.writestr(name, saved())
    return path


def broken_archive(folder: Path) -> Path:
    path = archive(folder / "net.whl", "net.pt")
    content = bytearray(path.read_bytes())
    at = content.index(b"net.pt") + 40
    content[at : at + 20] = bytes(20)
    path.write_bytes(content)
    return path


def text(path: Path) -> Path:
    path.write_text("not found")
    return path


def safetensors(path: Path) -> Path:
    save_file(WEIGHTS, path)
    return path


WAYS: dict[str, Way] = {
    "a damaged member": Way(
        lambda p: read_weights(f"{broken_archive(p)}:net.pt"),
        "is damaged or encrypted at",
        lambda p: gives_weights(archive(p / "other.whl", "net.pt")),
    ),
    "an archive without weights": Way(
        lambda p: read_weights(archive(p / "net.whl")),
        "holds no file with weights",
        lambda p: gives_weights(archive(p / "other.whl", "net.pt")),
    ),
    "an archive without that file": Way(
        lambda p: read_weights(f"{archive(p / 'net.whl', 'one.pt', 'two.pt')}:three.pt"),
        "{} holds no {}; {}",
        lambda p: [gives_weights(f"{p / 'net.whl'}:{name}") for name in ("one.pt", "two.pt")],
        advice="; it has one.pt, two.pt",
    ),
    "an archive with several": Way(
        lambda p: read_weights(archive(p / "net.whl", "one.pt", "two.pt")),
        "holds several files with weights",
        lambda p: gives_weights(f"{p / 'net.whl'}:one.pt"),
        advice="net.whl:one.pt",
    ),
    "no archive": Way(
        lambda p: read_weights(text(p / "net.whl")),
        "is no zip archive",
        lambda p: gives_weights(archive(p / "a.whl", "net.pt")),
    ),
    "nonsense": Way(
        lambda p: read_weights(text(p / "net.safetensors")),
        "is not a safetensors file",
        lambda p: gives_weights(safetensors(p / "other.safetensors")),
    ),
}


def test_all_sentences_are_followed() -> None:
    require_all(WAYS, TEST)


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path, TEST)


def test_the_library_that_is_named_reads_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(WEIGHTS, tmp_path / "net.safetensors")
    with monkeypatch.context() as absent, pytest.raises(UserError, match="; pip install safetensors"):
        absent.setitem(sys.modules, "safetensors.torch", None)
        read_weights(tmp_path / "net.safetensors")
    gives_weights(tmp_path / "net.safetensors")
