"""Download archives, continuing where a download broke off; check them, and unpack nothing dangerous."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath

from filelock import FileLock

from qkd_deploy.data.sets.files import file_digest
from qkd_deploy.errors import UserError

MIRROR = "QKD_DEPLOY_MIRROR"
"""Environment variable: an address that holds the archives, instead of the publisher's."""
CACHE = "QKD_DEPLOY_CACHE"
"""Environment variable: the folder for downloads where the user names none."""

_ATTEMPTS = 5
_TIMEOUT_SECONDS = 30
_AT_ONCE = 2**20


@dataclass(frozen=True)
class Archive:
    """A published tar archive.

    Attributes:
        address: of the folder it lies in, ending with "/".
        name: of the file.
        md5: its checksum, as the publisher states it.
        folder: the only folder in it.
    """

    address: str
    name: str
    md5: str
    folder: str

    @property
    def url(self) -> str:
        """Address of the file, at the publisher or at the mirror."""
        mirror = os.environ.get(MIRROR)
        return f"{mirror.rstrip('/')}/{self.name}" if mirror else self.address + self.name


def cache_folder() -> Path:
    """Choose the folder of downloads where the user names none."""
    if os.environ.get(CACHE):
        return Path(os.environ[CACHE])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "qkd-deploy"


def fetch(archive: Archive, target: Path) -> Path:
    """Make sure that ``target`` holds the archive's folder; download and unpack it where it does not.

    Several processes may do this at the same time: one works, the others wait. A download that was interrupted, in this
    or in an earlier process, continues.

    Returns:
        the folder.

    Raises:
        UserError: the download fails or is another file, the archive is dangerous, or the disk is full.
    """
    folder = target / archive.folder
    if folder.is_dir():
        return folder
    try:
        with _alone(target / f".{archive.name}.lock"):
            if not folder.is_dir():
                _download(archive, target)
                _unpack(archive, target)
    except OSError as error:
        raise UserError(
            f"cannot write to {target}: {error.strerror or error}; choose another --data-dir (data_dir in Python)"
        ) from error
    return folder


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one process work at a time; neither the lock nor folders that stay empty are left behind."""
    made = [folder for folder in lock.parents if not folder.exists()]
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)  # whoever waits for it notices, and makes a new one
    finally:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def _download(archive: Archive, target: Path) -> None:
    path = target / archive.name
    if path.exists():
        if file_digest(path, "md5") != archive.md5:
            raise UserError(f"{path} has another checksum than the publisher's archive; delete it, or replace it")
        return
    part = target / f"{archive.name}.part"
    try:
        _continue(archive.url, part)
    except (HTTPException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None and not isinstance(error, urllib.error.HTTPError):
            raise  # of a file, not of the network
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"cannot download {archive.url} ({reason}); try again later to continue, or unpack {archive.name} in a "
            "folder and give it as --data-dir (data_dir in Python)"
        ) from error
    if file_digest(part, "md5") != archive.md5:
        part.unlink()
        raise UserError(
            f"{archive.url} gave another file than the publisher's (wrong checksum), which was deleted; try again, "
            f"or put {archive.name} into {target}"
        )
    os.replace(part, path)


def _continue(url: str, part: Path) -> None:
    """Append to ``part`` until it is whole; a connection that breaks is opened again while it brings anything."""
    for attempt in range(_ATTEMPTS):
        start = _size(part)
        broken = _attempt(url, part, start)
        if broken is None:
            return
        if attempt == _ATTEMPTS - 1 or _size(part) <= start:
            raise broken


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _attempt(url: str, part: Path, start: int) -> Exception | None:
    """Download the rest once; returns the reason where the connection broke."""
    try:
        return None if _receive(url, part, start) else ConnectionError("the connection broke off")
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is left to send: the part is whole, or of another file
            return None
        raise
    except (HTTPException, ConnectionError, TimeoutError) as error:
        return error


def _receive(url: str, part: Path, start: int) -> bool:
    """Download the bytes behind ``start``; true where the whole rest came."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        continued = response.status == 206
        length = response.headers.get("Content-Length")
        received = 0
        with part.open("ab" if continued else "wb") as file, _shown(url, length) as advance:
            for piece in _pieces(response):
                file.write(piece)
                received += len(piece)
                advance(len(piece))
    return length is None or received == int(length)


def _pieces(response: HTTPResponse) -> Iterator[bytes]:
    return iter(lambda: response.read(_AT_ONCE), b"")


@contextmanager
def _shown(url: str, length: str | None) -> Iterator[Callable[[int], None]]:
    """Say on stderr what is downloaded; on a terminal, with a bar that the yielded function moves."""
    from rich.progress import DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from qkd_deploy.console import PlainTextConsole

    console = PlainTextConsole(stderr=True)
    if not console.is_terminal:
        console.print(f"downloading {url}", soft_wrap=True)
        yield lambda _: None
        return
    columns = (TextColumn("downloading {task.description}", markup=False), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(url, total=None if length is None else int(length))
        yield lambda size: progress.advance(task, size)


def _unpack(archive: Archive, target: Path) -> None:
    """Unpack into a folder of its own, which then takes its place at once."""
    temporary = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=target))
    try:
        with tarfile.open(target / archive.name, "r:gz") as tar:
            for member in tar:
                _refuse_danger(member, archive, target)
                tar.extract(member, temporary, filter="data")
        os.replace(temporary / archive.folder, target / archive.folder)
    except (tarfile.TarError, EOFError, zlib.error, FileNotFoundError) as error:
        raise UserError(f"cannot unpack {target / archive.name} ({error}); delete it and try again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_danger(member: tarfile.TarInfo, archive: Archive, target: Path) -> None:
    """Refuse all but files and folders below the archive's own folder: no links, no devices, no other places."""
    parts = PurePosixPath(member.name).parts
    inside = parts[:1] == (archive.folder,) and ".." not in parts
    if not inside or not (member.isreg() or member.isdir()):
        raise UserError(
            f"refused to unpack {target / archive.name}: it holds {member.name!r}, which is no file below "
            f"{archive.folder}; delete it, and get the publisher's archive"
        )
