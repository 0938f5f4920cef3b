"""Read the files of CIFAR-10 and CIFAR-100 in either layout of the publisher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qkd_deploy.data.sets.array_pickle import load_arrays
from qkd_deploy.data.sets.download import Archive
from qkd_deploy.data.sets.files import file_digest, not_as_published, read_bytes

IMAGE_SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32

Bytes = npt.NDArray[np.uint8]
Part = tuple[Bytes, Bytes]  # pixels [N, 3072] (red, green, blue planes), labels [N]


@dataclass(frozen=True)
class Layout:
    """One of the two forms in which the publisher packs a data set.

    Attributes:
        archive: of the publisher; its folder holds the files.
        train, test: the files of each split, in order.
        names: the file with the class names.
        read_part: reads one of the split files, told the number of images that it must hold.
        read_names: reads the class names.
        digests: by file of images the algorithm and checksum of the publisher's, such as ``sha1:0123...``; needed where
            the fingerprint of the content is not known.
    """

    archive: Archive
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    read_part: Callable[[Path, int], Part]
    read_names: Callable[[Path], list[str]]
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Name of the folder in the archive."""
        return self.archive.folder

    @property
    def files(self) -> tuple[str, ...]:
        """All files that must be there."""
        return (*self.train, *self.test, self.names)

    def is_original(self, folder: Path) -> bool:
        """Check that files with images are the publisher's; False where their checksums are not known."""
        return bool(self.digests) and all(
            file_digest(folder / name, digest.partition(":")[0]) == digest.partition(":")[2]
            for name, digest in self.digests.items()
        )


def read_binary(label_bytes: int) -> Callable[[Path, int], Part]:
    """Make a reader of records: ``label_bytes`` labels, of which the last one counts, then the pixels."""

    def read(path: Path, images: int) -> Part:
        width = label_bytes + PIXELS
        content = read_bytes(path)
        if len(content) != images * width:
            raise not_as_published(path, f"has {len(content)} bytes instead of {images * width}")
        records = np.frombuffer(content, dtype=np.uint8).reshape(images, width)
        return records[:, label_bytes:], records[:, label_bytes - 1]

    return read


def read_pickled(label_key: str) -> Callable[[Path, int], Part]:
    """Make a reader of pickled dictionaries with the entries ``data`` and ``label_key``."""

    def read(path: Path, images: int) -> Part:
        content = load_arrays(path)
        pixels, labels = content.get("data"), content.get(label_key)
        if not isinstance(pixels, np.ndarray) or pixels.shape != (images, PIXELS):
            raise not_as_published(path, f"has no 'data' of {images} images")
        if not _are_labels(labels, images):
            raise not_as_published(path, f"has no '{label_key}' for {images} images")
        return pixels, np.array(labels, dtype=np.uint8)

    return read


def _are_labels(labels: Any, count: int) -> bool:
    return isinstance(labels, list) and len(labels) == count and all(map(_is_byte, labels))


def _is_byte(label: Any) -> bool:
    return isinstance(label, int) and 0 <= label < 256


def read_pickled_names(key: str) -> Callable[[Path], list[str]]:
    """Make a reader of pickled dictionaries that hold class names under ``key``."""

    def read(path: Path) -> list[str]:
        names = load_arrays(path).get(key)
        if not isinstance(names, list):
            raise not_as_published(path, f"has no '{key}'")
        return [name.decode("utf-8", errors="replace") if isinstance(name, bytes) else str(name) for name in names]

    return read
