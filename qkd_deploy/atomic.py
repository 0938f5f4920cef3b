"""Write files that are either whole or absent."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qkd_deploy.errors import UserError, require_kind


def is_same_file(one: Path | str, other: Path | str) -> bool:
    """Whether two paths lead to one file that is there: writing one would replace the other."""
    try:
        return Path(one).samefile(other)
    except (OSError, ValueError):  # one of them is not there, or is no path
        return False


def path_to_write(path: object) -> Path:
    """Take a path that something is to be written to.

    Raises:
        UserError: it is neither text nor a path.
    """
    require_kind(path, (str, os.PathLike), "the path to write", "give a text or a pathlib.Path")
    return Path(path)  # type: ignore[arg-type]


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed to disk and renamed to ``path``.

    Missing folders are made. On any exception they and the temporary file are removed, and ``path`` keeps its old
    content.

    Raises:
        UserError: ``path`` is a folder or a device, its folder cannot be written to, or the disk is full.
    """
    target = path_to_write(path)
    if target.exists() and not target.is_file():  # renaming would replace a device by a file
        raise UserError(f"cannot write {target}: it is {'a folder' if target.is_dir() else 'no file'}; name a file")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with _writing(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Where the block fails, remove the folders that it made above ``target``, and say what the system said.

    Raises:
        UserError: instead of an OSError.
    """
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()
        if isinstance(error, OSError):
            raise UserError(
                f"cannot write {target}: {error.strerror or error}; choose another path or free some space"
            ) from error
        raise


@contextmanager
def all_or_nothing(path: Path) -> Iterator[None]:
    """Where the block fails after writing ``path``, give the file its old content back, or remove it again."""
    existed = path.exists()
    before = path.read_bytes() if path.is_file() else None
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if not existed:
                path.unlink(missing_ok=True)
                for folder in made:
                    folder.rmdir()
            elif before is not None and path.read_bytes() != before:
                with atomic_write(path) as temporary:
                    temporary.write_bytes(before)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``, which on success takes the place of what is there.

    On any exception it is removed, and ``path`` keeps what it held.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    target = path_to_write(path)
    mark = secrets.token_hex(4)
    temporary, old = (Path(f"{target.resolve()}.{mark}.{kind}") for kind in ("tmp", "old"))
    with _writing(target):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    with file.open("rb") as opened:
                        os.fsync(opened.fileno())
            _put_in_place(temporary, target, old)
        finally:
            for folder in (temporary, old):
                shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, target: Path, old: Path) -> None:
    """Move a folder to where another one may be, which is back in its place where that fails."""
    place = target.resolve()
    try:
        if target.exists():
            os.replace(place, old)
        os.replace(folder, place)
    except BaseException:  # an interruption between the two, too
        if old.exists() and not place.exists():
            os.replace(old, place)
        raise
