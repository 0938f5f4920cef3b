"""Writes small files in the publisher's layouts, the pickled ones as Python 2 wrote them and as Python 3 does."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

IMAGES_PER_FILE = 7
Bytes = npt.NDArray[np.uint8]
Dump = Callable[[dict[str, Any]], bytes]


def images(count: int, seed: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def python2_pickle(content: dict[str, Any]) -> bytes:
    """Protocol 2 with byte strings, as cPickle of Python 2 wrote dictionaries of lists, numbers, text and arrays."""
    items = b"".join(_text(key) + _value(value) for key, value in content.items())
    return b"\x80\x02}(" + items + b"u."


def python3_pickle(protocol: int) -> Dump:
    return lambda content: pickle.dumps(content, protocol=protocol)


def _text(text: str) -> bytes:
    raw = text.encode("latin1")
    return b"U" + bytes([len(raw)]) + raw


def _value(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_value, value)) + b"e"
    return b"J" + struct.pack("<i", value) if isinstance(value, int) else _text(value)


def _array(array: Bytes) -> bytes:
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"".join(map(_value, array.shape)) + b"\x86"
    raw = b"T" + struct.pack("<i", array.size) + array.tobytes()
    return empty + b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"


def _write_binary10(folder: Path) -> None:
    for number, name in enumerate([f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]):
        labels = (np.arange(IMAGES_PER_FILE, dtype=np.uint8)[:, None] + number) % 10
        (folder / name).write_bytes(np.hstack([labels, images(IMAGES_PER_FILE, number)]).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"class {i}" for i in range(10)) + "\n\n")


def _write_pickled10(folder: Path, dump: Dump) -> None:
    for number, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        labels = [(i + number) % 10 for i in range(IMAGES_PER_FILE)]
        data = images(IMAGES_PER_FILE, number)
        (folder / name).write_bytes(dump({"batch_label": name, "labels": labels, "data": data, "filenames": ["x"]}))
    names = [f"class {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(dump({"num_cases_per_batch": IMAGES_PER_FILE, "label_names": names}))


def _write_binary100(folder: Path) -> None:
    for number, name in enumerate(["train.bin", "test.bin"]):
        fine = np.arange(IMAGES_PER_FILE, dtype=np.uint8)[:, None] + 90
        (folder / name).write_bytes(np.hstack([fine // 5, fine, images(IMAGES_PER_FILE, number)]).tobytes())
    (folder / "fine_label_names.txt").write_text("\n".join(f"fine {i}" for i in range(100)) + "\n")


def _write_pickled100(folder: Path, dump: Dump) -> None:
    fine = [i + 90 for i in range(IMAGES_PER_FILE)]
    for number, name in enumerate(["train", "test"]):
        content = {
            "fine_labels": fine,
            "coarse_labels": [i // 5 for i in fine],
            "data": images(IMAGES_PER_FILE, number),
        }
        (folder / name).write_bytes(dump(content))
    (folder / "meta").write_bytes(dump({"fine_label_names": [f"fine {i}" for i in range(100)]}))


@pytest.fixture
def write_layout() -> Callable[..., Path]:
    """Write a layout by its folder name into a parent folder; the pickled ones by protocol ("py2", 2, 3 or 4)."""

    def write(name: str, parent: Path, dump: str | int = "py2") -> Path:
        folder = parent / name
        folder.mkdir(parents=True)
        pickled = python2_pickle if dump == "py2" else python3_pickle(int(dump))
        writers: dict[str, Callable[[], None]] = {
            "cifar-10-batches-bin": lambda: _write_binary10(folder),
            "cifar-10-batches-py": lambda: _write_pickled10(folder, pickled),
            "cifar-100-binary": lambda: _write_binary100(folder),
            "cifar-100-python": lambda: _write_pickled100(folder, pickled),
        }
        writers[name]()
        return folder

    return write


@pytest.fixture
def dump_python2() -> Dump:
    """Pickle as Python 2 does."""
    return python2_pickle
