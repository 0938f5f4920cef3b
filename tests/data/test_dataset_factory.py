from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qkd_deploy.data import dataset_names, load_dataset
from qkd_deploy.errors import UserError

MODULE = """
from qkd_deploy.data import ImageDataset, load_dataset
from qkd_deploy.errors import UserError

def plain():
    return load_dataset("digits")

def with_folder(data_dir):
    assert data_dir is not None
    return load_dataset("digits")

def anything(**keywords):
    assert list(keywords) == ["data_dir"]
    return load_dataset("digits")

def demanding(size, colour):
    return load_dataset("digits")

def failing():
    raise RuntimeError("first line\\nsecond line")

def complaining():
    raise UserError("the disk is not plugged in; plug it in")

def nothing():
    pass

number = 5
"""


@pytest.fixture(autouse=True)
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user's module in the current directory, which is not on the import path."""
    package = tmp_path / "user_data"
    package.mkdir()
    (package / "sets.py").write_text(MODULE)
    (package / "broken.py").write_text("import no_such_thing\n")
    (package / "unfinished.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "user_data"]:
        del sys.modules[name]


@pytest.mark.parametrize("factory", ["plain", "with_folder", "anything"])
def test_factories_in_the_current_directory_are_called(factory: str, tmp_path: Path) -> None:
    assert load_dataset(f"user_data.sets:{factory}", tmp_path).known_as == "digits"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("user_data.stes:plain", "cannot import user_data.stes"),
        ("nowhere:plain", "No module named 'nowhere'"),
        ("user_data.broken:plain", "No module named 'no_such_thing'"),
        ("user_data.unfinished:plain", "SyntaxError"),
        ("user_data.sets:plane", r"has no 'plane' \(did you mean 'plain'\?\)"),
        ("user_data.sets:number", "is a int; name a function"),
        ("user_data.sets:demanding", "missing a required argument: 'size'"),
        ("user_data.sets:failing", "failed with RuntimeError: first line; correct"),
        ("user_data.sets:complaining", "^the disk is not plugged in; plug it in$"),
        ("user_data.sets:nothing", "returned a NoneType; .* ImageDataset"),
        (":plain", "write package.module:factory"),
        ("user_data.sets:", "write package.module:factory"),
        ("user_data.sets:a.b", "write package.module:factory"),
        (".sets:plain", "write package.module:factory"),
    ],
)
def test_what_cannot_be_built_is_explained_in_one_line(name: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)


def test_unknown_names_get_a_suggestion_and_the_list() -> None:
    with pytest.raises(UserError, match=r"unknown data set 'CIFAR-10' \(did you mean 'cifar10'\?\)") as caught:
        load_dataset("CIFAR-10")
    assert all(name in str(caught.value) for name in dataset_names())
    with pytest.raises(UserError, match="unknown data set 'xyzzy'; known"):
        load_dataset("xyzzy")
