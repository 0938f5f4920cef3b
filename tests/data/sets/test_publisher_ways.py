"""Ways out of published data sets that cannot be downloaded, unpacked or read: with what is recommended they open."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from archive_server import FOLDER, archive_of, packed, packed_folder, serving
from image_files import write
from ways import Way, follow, require_all

from qkd_deploy.data import load_dataset
from qkd_deploy.data.sets.cifar import CIFAR10, CIFAR100, load_cifar
from qkd_deploy.data.sets.download import Archive, fetch
from qkd_deploy.errors import UserError

TEST = "tests/data/sets/test_publisher_ways.py::test_the_way_out_works"
CONTENT = packed((f"{FOLDER}/a.bin", os.urandom(5000)), (f"{FOLDER}/deep/b.txt", b"text"))
SMALL = {family.name: replace(family, train_images=7, test_images=7) for family in (CIFAR10, CIFAR100)}


def gets(target: Path, archive: Archive | None = None, content: bytes = CONTENT, **answer: Any) -> None:
    """Get an archive from a server that sends some content."""
    with serving() as server:
        server.content = content
        for name, value in answer.items():
            setattr(server, name, value)
        folder = fetch(replace(archive or archive_of(CONTENT), address=server.address), target)
    assert (folder / "deep" / "b.txt").read_text() == "text"


def puts(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def unpacked_by_hand(folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(CONTENT)) as archive:
        archive.extractall(folder / "by hand", filter="data")
    gets(folder / "by hand", content=b"")


EVIL = packed((f"{FOLDER}/a.bin", b""), ("../evil", b""))

WAYS: dict[str, Way] = {
    "a place that is a file": Way(
        lambda p: gets(puts(p / "file", b"") / "below"),
        "choose another --data-dir",
        lambda p: gets(p / "other"),
    ),
    "another file in its place, deleted": Way(
        lambda p: gets(puts(p / "data.tar.gz", b"something else").parent),
        "delete it, or replace it",
        lambda p: [(p / "data.tar.gz").unlink(), gets(p)],
    ),
    "another file in its place, replaced": Way(
        lambda p: gets(puts(p / "data.tar.gz", b"something else").parent),
        "delete it, or replace it",
        lambda p: [puts(p / "data.tar.gz", CONTENT), gets(p, content=b"")],
    ),
    "a connection that breaks": Way(
        lambda p: gets(p, break_after=100),
        "try again later to continue",
        lambda p: gets(p),
        advice="or unpack data.tar.gz in a folder",
    ),
    "no connection": Way(
        lambda p: fetch(archive_of(CONTENT), p),
        "try again later to continue",
        unpacked_by_hand,
        advice="or unpack data.tar.gz in a folder",
    ),
    "another file": Way(
        lambda p: gets(p, content=CONTENT + b"!"),
        "gave another file than the publisher's",
        lambda p: gets(p),
        advice="or put data.tar.gz into ",
    ),
    "another file again": Way(
        lambda p: gets(p, content=CONTENT + b"!"),
        "gave another file than the publisher's",
        lambda p: [puts(p / "data.tar.gz", CONTENT), gets(p, content=b"")],
        advice="or put data.tar.gz into ",
    ),
    "a damaged archive": Way(
        lambda p: gets(p, archive_of(CONTENT[:-2000]), CONTENT[:-2000]),
        "delete it and try again",
        lambda p: [(p / "data.tar.gz").unlink(), gets(p)],
    ),
    "a dangerous archive": Way(
        lambda p: gets(p, archive_of(EVIL), EVIL),
        "delete it, and get the publisher's archive",
        lambda p: [(p / "data.tar.gz").unlink(), gets(p)],
    ),
}


@pytest.fixture(autouse=True)
def from_the_publisher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QKD_DEPLOY_MIRROR", raising=False)


def test_all_sentences_are_followed() -> None:
    require_all(WAYS, TEST)


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path, TEST)


def write_tiny(parent: Path) -> Path:
    """Tiny-ImageNet with two classes."""
    root = parent / "tiny-imagenet-200"
    for number, wnid in enumerate(("n01", "n02")):
        for index in range(3):
            write(root / "train" / wnid / "images" / f"{wnid}_{index}.JPEG", 10 * number + index)
        write(root / "val" / "images" / f"val_{number}.JPEG", 100 + number)
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\t0\nval_1.JPEG\tn02\t0\n")
    (root / "wnids.txt").write_text("n01\nn02\n")
    (root / "words.txt").write_text("n01\tcrane\nn02\teel\n")
    return root


def opened(folder: Path) -> object:
    if folder.name.startswith("tiny"):
        return load_dataset("tiny-imagenet", folder.parent, workers=0)
    return load_cifar(SMALL["cifar100" if "100" in folder.name else "cifar10"], folder.parent)


class Calls:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1",)


def pickled(name: str, content: object) -> Callable[[Path], object]:
    return lambda folder: puts(folder / name, pickle.dumps(content, protocol=2))


def written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: puts(folder / name, content)


def in_its_place(name: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink(), (folder / name).mkdir()]


DAMAGED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a file is missing": (FOLDER, lambda f: (f / "data_batch_3.bin").unlink(), "lacks data_batch_3.bin"),
    "fewer class names": (FOLDER, written("batches.meta.txt", b"cat\n"), "holds 1 class names instead of 10"),
    "half a file": (FOLDER, written("test_batch.bin", bytes(3073)), "has 3073 bytes instead of 21511"),
    "another label": (FOLDER, written("test_batch.bin", b"\xff" * 21511), "has a label above 9"),
    "code": ("cifar-10-batches-py", pickled("test_batch", Calls()), "is refused, as it wants to run code"),
    "nonsense": ("cifar-10-batches-py", written("test_batch", b"nonsense"), "cannot be read"),
    "no images": ("cifar-100-python", pickled("test", {}), "has no 'data' of 7 images"),
    "no names": ("cifar-100-python", pickled("meta", {}), "has no 'fine_label_names'"),
    "one class": ("tiny", lambda f: shutil.rmtree(f / "train" / "n01"), "has images of fewer than two classes"),
    "other classes": ("tiny", written("val/val_annotations.txt", b"val_0.JPEG\tn03\n"), "names no image of these"),
    "damaged text": ("tiny", written("val/val_annotations.txt", b"val_0.JPEG"), "is damaged"),
    "no text": ("tiny", lambda f: (f / "val/val_annotations.txt").unlink(), "cannot be read (No such file"),
    "a folder for a text": ("tiny", in_its_place("words.txt"), "is no regular file"),
    "no list of classes": ("tiny", lambda f: (f / "wnids.txt").unlink(), "with its wnids.txt; unpack the publisher's"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_an_archive_that_is_unpacked_again_can_be_read(case: str, tmp_path: Path, write_layout: Any) -> None:
    layout, damage, said = DAMAGED[case]
    folder = write_tiny(tmp_path) if layout == "tiny" else write_layout(layout, tmp_path)
    archive = packed_folder(folder)
    damage(folder)
    with pytest.raises(UserError) as refused:
        opened(folder)
    assert said in str(refused.value)
    assert "; unpack the publisher's archive " in str(refused.value)
    shutil.rmtree(folder)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(tmp_path, filter="data")
    opened(folder)


def test_a_folder_that_is_not_there(tmp_path: Path, write_layout: Any) -> None:
    write_layout(FOLDER, tmp_path / "data")
    with pytest.raises(
        UserError, match=rf"there is no folder .*; give the one that holds {FOLDER} or .* as --data-dir"
    ):
        load_cifar(SMALL["cifar10"], tmp_path / "date")
    load_cifar(SMALL["cifar10"], tmp_path / "data")


def test_an_archive_can_be_put_where_nothing_can_be_downloaded(tmp_path: Path, write_layout: Any) -> None:
    archive = packed_folder(write_layout(FOLDER, tmp_path / "source"))
    known = replace(archive_of(archive), name="cifar-10-binary.tar.gz")
    layout = replace(CIFAR10.layouts[0], archive=known)
    family = replace(SMALL["cifar10"], layouts=(layout, *CIFAR10.layouts[1:]))
    (tmp_path / "data").mkdir()
    with pytest.raises(
        UserError, match=r"data holds no cifar10; cannot download .* or unpack cifar-10-binary\.tar\.gz"
    ):
        load_cifar(family, tmp_path / "data")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(tmp_path / "data", filter="data")
    load_cifar(family, tmp_path / "data")
