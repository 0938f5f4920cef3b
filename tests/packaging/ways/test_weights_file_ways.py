"""Ways out of files that are no weights, or not by themselves: what the sentence recommends gives the weights."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from saved_weights import WEIGHTS, gives_weights, network, saved
from torch import Tensor
from ways import Way, follow, require_all

from qkd_deploy.checkpoints.torch_file import save_tensors
from qkd_deploy.checkpoints.weights import read_weights
from qkd_deploy.errors import UserError

TEST = "tests/packaging/ways/test_weights_file_ways.py::test_the_way_out_works"


def good(folder: Path) -> Path:
    torch.save(WEIGHTS, folder / "good.pt")
    return folder / "good.pt"


def reads(content: bytes, name: str = "net.pt") -> Callable[[Path], object]:
    """Write a file and read it."""

    def read(folder: Path) -> dict[str, Tensor]:
        (folder / name).write_bytes(content)
        return read_weights(folder / name)

    return read


def another(folder: Path) -> None:
    gives_weights(good(folder))


def in_its_place(folder: Path) -> None:
    (folder / "net.pt").write_bytes(saved())
    gives_weights(folder / "net.pt")


def bad(content: bytes, said: str, right: Callable[[Path], object] = another, advice: str = "") -> Way:
    return Way(reads(content), said, right, advice)


def broken_records() -> bytes:
    """Damage the first entry of the zip file's list, which the last 22 bytes tell the place of."""
    content = bytearray(saved())
    at = int.from_bytes(content[-6:-2], "little")
    content[at : at + 2] = b"XX"
    return bytes(content)


def deflated() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved())) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


def saved_again(folder: Path) -> None:
    torch.save(torch.load(folder / "net.pt"), folder / "again.pt")
    gives_weights(folder / "again.pt")


def unpacked(folder: Path) -> None:
    """Run the line of the sentence in a shell."""
    with pytest.raises(UserError) as refused:
        read_weights(folder / "net.pt")
    line = str(refused.value).partition("in a shell: ")[2]
    subprocess.run(line, shell=True, check=True, cwd=folder)
    gives_weights(folder / "weights.pt")


def renamed(folder: Path) -> None:
    gives_weights((folder / "net.pt").rename(folder / "net.safetensors"))


def safetensors(folder: Path) -> bytes:
    save_file(WEIGHTS, folder / "a")
    return (folder / "a").read_bytes()


class Calls:
    """Would run something when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1",)


def runs_code() -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": WEIGHTS, "x": Calls()}, buffer)
    return buffer.getvalue()


def of_others(folder: Path) -> dict[str, Tensor]:
    """Save weights beside an object of a package that is not there where the file is read."""
    with trainers_package() as package:
        torch.save({"state_dict": WEIGHTS, "history": package.History([1])}, folder / "others.pt")
    return read_weights(folder / "others.pt")


class trainers_package:
    """A package of others, for as long as a block lasts."""

    def __enter__(self) -> Any:
        module = types.ModuleType("a_trainer")
        exec("class History(list):\n    pass\n", module.__dict__)
        sys.modules["a_trainer"] = module
        return module

    def __exit__(self, *_: object) -> None:
        del sys.modules["a_trainer"]


def loaded_where_its_code_is(folder: Path) -> None:
    with trainers_package():
        content = torch.load(folder / "others.pt", weights_only=False)
    torch.save(content["state_dict"], folder / "plain.pt")
    gives_weights(folder / "plain.pt")


def run_folder(folder: Path) -> Path:
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "model.pt").write_bytes(saved())
    return folder / "run"


def sealed(folder: Path) -> Path:
    save_tensors(folder / "copy.pt", {"state_dict": WEIGHTS})
    return folder / "copy.pt"


def flipped(folder: Path) -> dict[str, Tensor]:
    content = bytearray(sealed(folder).read_bytes())
    content[len(content) // 2] ^= 16
    (folder / "net.pt").write_bytes(content)
    return read_weights(folder / "net.pt")


def without_seal(folder: Path) -> dict[str, Tensor]:
    torch.save(torch.load(sealed(folder)), folder / "net.pt")
    return read_weights(folder / "net.pt")


def no_weights(folder: Path) -> dict[str, Tensor]:
    torch.save([1, 2], folder / "list.pt")
    return read_weights(folder / "list.pt")


def the_line_of_the_sentence(folder: Path) -> None:
    with pytest.raises(UserError) as refused:
        no_weights(folder)
    line = re.search(r"torch\.save\(.*\)", str(refused.value))
    assert line is not None
    exec(line[0].replace("'weights.pt'", repr(str(folder / "weights.pt"))), {"torch": torch, "net": network()})
    gives_weights(folder / "weights.pt")


WAYS: dict[str, Way] = {
    "a pointer": bad(b"version https://git-lfs.github.com/spec/v1\n", "fetch that with git lfs pull", in_its_place),
    "a web page": bad(b"<!doctype html><p>Not found", "download the file again", in_its_place),
    "another web page": bad(b"<HTML>Not found", "download the file again", in_its_place),
    "weights of Keras": bad(b"\x89HDF\r\n\x1a\n" + bytes(100), "give weights of PyTorch"),
    "compressed weights": bad(gzip.compress(saved()), "is compressed by gzip", unpacked, "gunzip < /"),
    "another suffix": Way(lambda p: reads(safetensors(p))(p), "give it the suffix .safetensors", renamed),
    "damaged records": bad(broken_records(), "its list of records cannot be read"),
    "compressed records": bad(deflated(), "save them again with torch.save", saved_again),
    "a changed byte": Way(flipped, "is not what its digest was made of", lambda p: gives_weights(p / "copy.pt")),
    "a lost seal": Way(without_seal, "has lost the digest of its content", lambda p: gives_weights(p / "copy.pt")),
    "a folder": Way(
        lambda p: read_weights(run_folder(p)),
        "is a folder; ",
        lambda p: gives_weights(p / "run" / "model.pt"),
        advice="run/model.pt",
    ),
    "half a file": bad(saved()[: len(saved()) // 2], "was not written by torch.save"),
    "a file with code": bad(runs_code(), "it wants to run code"),
    "a class of others": Way(of_others, "load it where you trust that code", loaded_where_its_code_is),
    "no file of torch.save": bad(pickle.dumps({"a": 1}), "it is damaged, or no file of torch.save"),
    "no weights": Way(no_weights, "holds no state_dict", the_line_of_the_sentence),
}


def test_all_sentences_are_followed() -> None:
    require_all(WAYS, TEST)


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path, TEST)


def test_a_file_that_may_not_be_read_gets_other_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is named, or the same one is read as soon as the system lets us."""
    path = good(tmp_path)

    def refuse(self: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as locked:
        locked.setattr(Path, "open", refuse)
        with pytest.raises(UserError, match=r"Permission denied; name another one, or change its permissions"):
            read_weights(path)
    gives_weights(path)
    (tmp_path / "other.pt").write_bytes(saved())
    gives_weights(tmp_path / "other.pt")
