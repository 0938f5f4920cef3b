"""Ways out on the command line: a wrong line, the sentence that answers it, and the line that this recommends."""

from __future__ import annotations

import importlib
import io
import resource
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from sentences import followed_by, is_said, the_one_with

from qkd_deploy.cli.main import main

Change = Callable[[Path], object]


@dataclass(frozen=True)
class Line:
    """A mistake on the command line, what is said of it, and what that recommends.

    Attributes:
        wrong: the arguments, as in a shell.
        said: words of the sentence, as the source has them.
        advice: what is recommended, where the source has not all of its words.
        right: the arguments that the sentence recommends.
        before: what is done to files before the mistake.
        mend: what the sentence asks to be done to files.
        code: exit code of the wrong line; 0 where the sentence is a remark.
    """

    wrong: str
    said: str
    right: str
    advice: str = ""
    before: Change = lambda folder: None
    mend: Change = lambda folder: None
    code: int = 2


@dataclass(frozen=True)
class Answer:
    """The exit code of a command, and what it printed."""

    code: int
    out: str
    err: str


def writes(name: str, text: str) -> Change:
    """Write a text file."""
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def edits(name: str, old: str, new: str) -> Change:
    """Replace a part of a text file."""

    def edit(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new), encoding="utf-8")

    return edit


def renames(old: str, new: str) -> Change:
    """Move a file; the folder that it goes to is made."""

    def rename(folder: Path) -> None:
        (folder / new).parent.mkdir(exist_ok=True)
        (folder / old).rename(folder / new)

    return rename


def runs(line: str) -> Change:
    """Run a line, which succeeds."""

    def run(folder: Path) -> None:
        done = command(line, folder)
        assert done.code == 0, done.err

    return run


def command(line: str, folder: Path, stdout: TextIO | None = None) -> Answer:
    """Run a line in this process as if it were one of its own, started in a folder: modules there are read anew."""
    out, err = stdout or io.StringIO(), io.StringIO()
    with chdir(folder), _fresh_modules(folder), redirect_stdout(out), redirect_stderr(err):
        code = main(shlex.split(line))
    return Answer(code, out.getvalue() if isinstance(out, io.StringIO) else "", err.getvalue())


@contextmanager
def _fresh_modules(folder: Path) -> Iterator[None]:
    """Forget the modules of a folder, which the next call may find changed."""
    path, writes = list(sys.path), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, writes
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "/").is_relative_to(folder):
                del sys.modules[name]


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def follow(way: Line, folder: Path, test: str) -> None:
    """Make the mistake, find the whole sentence, do what it says, and find that this works and it is not said again.

    Args:
        way: a row of a test's table.
        folder: where the commands run.
        test: as the list of sentences names it.
    """
    sentence = the_one_with(way.said, test)
    way.before(folder)
    wrong = command(way.wrong, folder)
    assert wrong.code == way.code, wrong.err
    assert is_said(sentence, wrong.err) and way.advice in wrong.err, wrong.err
    way.mend(folder)
    right = command(way.right, folder)
    assert right.code == 0, right.err
    assert not is_said(sentence, right.err), right.err


def require_all(ways: Mapping[str, Line], test: str) -> None:
    """Require a row for every sentence that a test follows, as the list says, and all that it recommends in the row."""
    rows = {name: the_one_with(way.said, test) for name, way in ways.items()}
    assert set(rows.values()) == set(followed_by(test))
    assert [name for name, text in rows.items() if "{}" in text.rpartition("; ")[2] and not ways[name].advice] == []
