"""Data files that are not what they seem: sizes are read before data, and nothing is waited for."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from qkd_deploy import UserError, load_dataset
from qkd_deploy.data.dataset import ImageDataset

EXAMPLES = int(os.environ.get("QKD_FUZZ", "60"))


def grey(folder: Path, name: str, *, peak: int = 255, size: int = 16, seed: int = 0) -> None:
    """Write a random image, of 16 bits where ``peak`` needs them; one pixel has the value ``peak``."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, peak + 1, (size, size))
    values.flat[0] = peak
    Image.fromarray(values.astype(np.uint8 if peak < 256 else np.uint16)).save(folder / f"{name}.png")


def folder_of(root: Path, peak: int) -> Path:
    for split in ("train", "val"):
        for number, kind in enumerate("ab"):
            for index in range(3):
                grey(root / split / kind, str(index), peak=peak, seed=3 * number + index)
    return root


def levels(dataset: ImageDataset) -> int:
    images = dataset.train.images  # type: ignore[union-attr]  # in memory
    return int(images.unique().numel())


@pytest.mark.parametrize(("bits", "advised"), [(9, 1023), (10, 1023), (12, 4095), (14, 16383)])
def test_greys_of_fewer_bits_are_refused_and_the_way_out_works(bits: int, advised: int, tmp_path: Path) -> None:
    source = f"imagefolder:{folder_of(tmp_path, 2**bits - 1)}"
    with pytest.raises(UserError, match=rf"reach only {2**bits - 1}.*give --input-range {advised} \(input_range"):
        load_dataset(source)
    found = load_dataset(source, input_range=advised)
    assert int(found.train.images.max()) == (255 * (2**bits - 1) + advised // 2) // advised  # type: ignore[union-attr]
    assert levels(found) > min(100, 2 ** (bits - 3))
    assert found.evaluation == {"input_range": advised}
    dark = load_dataset(source, input_range=65535)  # "where the images are just dark"
    assert dark.evaluation == {} and levels(dark) <= 2**bits // 257 + 2


def test_greys_of_sixteen_bits_need_nothing_and_greys_above_the_range_are_refused(tmp_path: Path) -> None:
    source = f"imagefolder:{folder_of(tmp_path, 65535)}"
    assert levels(load_dataset(source)) > 200
    with pytest.raises(UserError, match=r"above --input-range 4095 \(input_range in Python\); give 65535"):
        load_dataset(source, input_range=4095)
    assert levels(load_dataset(source, input_range=65535)) > 200


def test_greys_of_eight_bits_do_not_mind(tmp_path: Path) -> None:
    source = f"imagefolder:{folder_of(tmp_path, 255)}"
    assert (load_dataset(source).train.images == load_dataset(source, input_range=4095).train.images).all()  # type: ignore[union-attr]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("place", ["train/a/1.png", "train/a/zzz.png", "val/b/0.png"])
def test_a_named_pipe_among_images_is_left_out(place: str, tmp_path: Path) -> None:
    folder_of(tmp_path, 255)
    (tmp_path / place).unlink(missing_ok=True)
    os.mkfifo(tmp_path / place)
    found = load_dataset(f"imagefolder:{tmp_path}", workers=0)
    assert any("no regular file" in note for note in found.notes)
    with pytest.raises(UserError, match=r"no regular file.*leave out --strict"):
        load_dataset(f"imagefolder:{tmp_path}", workers=0, strict=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["data.npz", "wnids.txt"])
def test_a_named_pipe_in_place_of_a_file_is_one_line(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError):
        load_dataset(name if name.endswith("npz") else "tiny-imagenet", tmp_path)


def archive(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def bomb(path: Path) -> None:
    """An archive of a few megabytes that unpacks to 5 GB of zeros."""
    header = b"\x93NUMPY\x01\x00"
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (5000000, 32, 32, 1), }"
    text += b" " * (118 - len(text) - 1) + b"\n"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("images.npy", "w", force_zip64=True) as member,
    ):
        member.write(header + struct.pack("<H", len(text)) + text)
        block = bytes(2**24)
        for _ in range(5 * 2**30 // len(block)):
            member.write(block)


ARRAYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "labels up to 1e12": (
        lambda path: archive(path, images=np.zeros((10, 4, 4), np.uint8), labels=np.full(10, 10**12)),
        "more than 1048576; number them from 0",
    ),
    "labels up to 2^64": (
        lambda path: archive(path, images=np.zeros((10, 4, 4), np.uint8), labels=np.full(10, 2**64 - 2, np.uint64)),
        "give it as --classes|labels",
    ),
    "no images": (lambda path: archive(path, images=np.zeros((0, 4, 4), np.uint8)), "give one label to each image"),
    "one image": (lambda path: archive(path, images=np.zeros((1, 4, 4), np.uint8)), "too few to keep any"),
    "images of no pixels": (lambda path: archive(path, images=np.zeros((9, 0, 4), np.uint8)), "--classes"),
    "names of no classes": (
        lambda path: archive(path, images=np.zeros((9, 4, 4), np.uint8), labels=np.arange(9) % 2, classes=np.array([])),
        "its 0 classes",
    ),
    "a shape that is larger than the file": (
        lambda path: path.write_bytes(
            b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999,), }".ljust(127)
            + b"\n"
        ),
        "write it with numpy.save|without a name",
    ),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_are_no_data(case: str, tmp_path: Path) -> None:
    make, message = ARRAYS[case]
    make(tmp_path / "data.npz")
    with pytest.raises(UserError, match=message):
        load_dataset("data.npz", tmp_path)


@pytest.mark.slow
def test_an_archive_that_unpacks_to_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    bomb(tmp_path / "data.npz")
    with pytest.raises(UserError, match=r"unpacks to 5\.4 GB.*imagefolder:PATH"):
        load_dataset("data.npz", tmp_path)


def test_a_million_classes_without_labels_are_refused(tmp_path: Path) -> None:
    archive(tmp_path / "data.npz", images=np.zeros((9, 4, 4), np.uint8))
    with pytest.raises(UserError, match="would have 1000000000000 classes"):
        load_dataset("data.npz", tmp_path, classes=10**12)


SMALL: dict[str, dict[str, list[str]]] = {
    "one image of one class": {"train/a": ["0"], "val/a": ["0"]},
    "one image of each class": {"train/a": ["0"], "train/b": ["0"], "val/a": ["0"], "val/b": ["0"]},
    "one image in all": {"a": ["0"]},
    "one image without a folder": {"": ["0"]},
    "other classes held out": {"train/a": ["0"], "train/b": ["0"], "val/c": ["0"], "val/d": ["0"]},
    "a class less held out": {"train/a": ["0"], "train/b": ["0"], "val/b": ["0"]},
    "no image held out": {"train/a": ["0", "1", "2"], "train/b": ["0", "1", "2"], "val": []},
}


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize("classes", [0, 2])
def test_few_images_are_a_data_set_or_one_line(case: str, classes: int, tmp_path: Path) -> None:
    for folder, names in SMALL[case].items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            grey(tmp_path / folder, name)
    try:
        found = load_dataset(f"imagefolder:{tmp_path}", classes=classes)
    except UserError as error:
        assert ";" in str(error) and "\n" not in str(error)
        return
    assert len(found.train) and len(found.test) and len(found.classes) >= 1
    found.train.images_at(torch.arange(len(found.train)))


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_altered_files_are_data_or_one_line(data: st.DataObject, tmp_path: Path) -> None:
    """Bytes are flipped, cut and put in; whatever comes of it, nothing but our own error is raised."""
    kind = data.draw(st.sampled_from(["npz", "png"]))
    root = tmp_path / "fuzz"
    folder_of(root, 255)
    file = root / ("data.npz" if kind == "npz" else "train/a/0.png")
    if kind == "npz":
        archive(file, images=np.zeros((12, 4, 4), np.uint8), labels=np.arange(12) % 3)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255))
        else:
            content[place : place + data.draw(st.integers(0, 64))] = data.draw(st.binary(max_size=8))
        content = content or bytearray(b"\x00")
    file.write_bytes(bytes(content))
    try:
        load_dataset("data.npz" if kind == "npz" else f"imagefolder:{root}", root, workers=0)
    except UserError as error:
        assert "\n" not in str(error)
