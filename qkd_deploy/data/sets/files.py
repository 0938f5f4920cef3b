"""Find image files in folders and open them as the source of a data set; read text files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from qkd_deploy.data.images.decode import SUFFIXES, Unreadable, open_image, upright_size
from qkd_deploy.errors import UserError, unreadable


@dataclass(frozen=True)
class Files:
    """A source of images: files below one folder.

    Attributes:
        root: the folder.
        names: paths from there, with "/".
    """

    root: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def open(self, index: int) -> Image.Image:
        """Decode an image, or raise `Unreadable`."""
        return open_image(self._file(index))

    def size_of(self, index: int) -> tuple[int, int]:
        """Read width and height of an image, upright, or raise `Unreadable`."""
        return upright_size(self._file(index))

    def _file(self, index: int) -> Path:
        file = self.root / self.names[index]
        if os.path.exists(file) and not os.path.isfile(file):  # a named pipe would be waited for
            raise Unreadable("no regular file")
        return file

    def name_of(self, index: int) -> str:
        """Name a file by its path from the folder."""
        return self.names[index]

    def identity_of(self, index: int) -> str:
        """Identify a file by its path and size; -1 where there is no such file."""
        try:
            return f"{self.names[index]} {(self.root / self.names[index]).stat().st_size}"
        except OSError:
            return f"{self.names[index]} -1"


def image_files(folder: Path) -> Iterator[Path]:
    """Find the image files in ``folder`` and below, by their suffix, in a fixed order.

    Hidden files and folders are left out. Links to files are followed; links to folders below ``folder`` are not, so
    that no loop can arise.

    Raises:
        UserError: a folder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise unreadable(error.filename, error) from error

    for place, folders, files in os.walk(folder, onerror=stop):
        folders[:] = sorted(name for name in folders if is_visible(name))
        for name in sorted(files):
            if is_image(name):
                yield Path(place) / name


def is_image(name: str) -> bool:
    """Tell image files by their name."""
    return is_visible(name) and os.path.splitext(name)[1].lower() in SUFFIXES


def is_visible(name: str) -> bool:
    """Tell files and folders that are looked at by their name: not hidden, and none of macOS's archive leftovers."""
    return not name.startswith(".") and name != "__MACOSX"


def leads_out(name: str) -> bool:
    """Tell names of files that do not lie below the folder that they are said to be in."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\0" in name


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, such as class names, without blanks around them and without empty ones."""
    lines = read_bytes(path).decode("utf-8", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def not_as_published(path: Path, what: str) -> UserError:
    """Make the error of a file or folder that is not as its publisher packed it; ``what`` says how it is."""
    return UserError(f"{path} {what}; unpack the publisher's archive again")


def read_bytes(path: Path) -> bytes:
    """Read a whole file of a publisher's archive.

    Raises:
        UserError: it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise not_as_published(path, "is no regular file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise not_as_published(path, f"cannot be read ({error.strerror})") from error


def file_digest(path: Path, algorithm: str) -> str:
    """Hash a file in pieces, with an algorithm of ``hashlib``; returns hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
