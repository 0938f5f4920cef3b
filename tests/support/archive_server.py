"""A server on this machine that sends an archive: whole, broken off, without ranges, or another one."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from qkd_deploy.data.sets.download import Archive

FOLDER = "cifar-10-batches-bin"
NOWHERE = "http://127.0.0.1:9/"
"""Where nobody answers."""


@dataclass
class Server:
    """What a server sends, and what it was asked for."""

    content: bytes = b""
    break_after: int | None = None
    ignore_range: bool = False
    asked: list[str | None] = field(default_factory=list)
    address: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and not self.ignore_range else 0
        if start and start >= len(self.content):
            handler.send_error(416)
            return
        rest = self.content[start:]
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(rest)))
        handler.end_headers()
        handler.wfile.write(rest if self.break_after is None else rest[: self.break_after])


@contextmanager
def serving() -> Iterator[Server]:
    """Let a server answer for as long as a block lasts."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
    state.address = f"http://127.0.0.1:{listener.server_address[1]}/"
    yield state
    listener.shutdown()
    listener.server_close()


def packed(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """A gzipped tar of files, and of members as they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def packed_folder(folder: Path) -> bytes:
    """A gzipped tar of a folder with files."""
    return packed(
        *(
            (path.relative_to(folder.parent).as_posix(), path.read_bytes())
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        )
    )


def archive_of(content: bytes, address: str = NOWHERE) -> Archive:
    """The archive with that content, as its publisher describes it."""
    return Archive(address, "data.tar.gz", hashlib.md5(content).hexdigest(), FOLDER)
