"""Runs the ``check.py`` of a bundle, and looks at what it says."""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Check = Callable[..., tuple[int, str, str]]


def program_of(bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """A function that runs a bundle's program in this process; it gives exit code, stdout and stderr."""

    def call(*arguments: object, program: Path = bundle / "check.py") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(program), *map(str, arguments), "--runs", "2"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(program), run_name="__main__")
        printed = capsys.readouterr()
        return int(str(ended.value.code)), printed.out, printed.err

    return call


def rehash(bundle: Path) -> None:
    """Let the manifest name the digests of what is there, as somebody would who changed the model."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = {n: hashlib.sha256((bundle / n).read_bytes()).hexdigest() for n in manifest["files"]}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def one_line(text: str, *said: str) -> None:
    """Fail unless an error is one line with some words."""
    assert text.startswith("error: ") and text.count("\n") == 1 and all(words in text for words in said), text
