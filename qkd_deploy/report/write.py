"""Write the report of a run into one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkd_deploy.atomic import atomic_write, is_same_file
from qkd_deploy.errors import UserError
from qkd_deploy.report.findings import Findings
from qkd_deploy.report.gather import gather
from qkd_deploy.report.page import page


@dataclass(frozen=True)
class Written:
    """A report: the file, and what it shows."""

    path: Path
    findings: Findings


def write_report(
    folder: Path | str,
    file: Path | str | None = None,
    output: Path | str | None = None,
    *,
    model: str | None = None,
    data: Mapping[str, Any] | None = None,
    limit: int = 1000,
    command: str = "qkd-deploy report",
    tell: Callable[[str], None] = lambda text: None,
) -> Written:
    """Write the report of a run and its exported file.

    Args:
        folder: of the run.
        file: the exported file; by default ``model.onnx`` in the folder, where there is one.
        output: the file to write; by default ``report.html`` in the folder.
        model: see ``gather``.
        data: see ``gather``.
        limit: see ``gather``.
        command: see ``gather``.
        tell: see ``gather``.

    Raises:
        UserError: as ``gather``, or the output is one of the files that are read, or cannot be written.
    """
    run = Path(folder)
    target = run / "report.html" if output is None else Path(output)
    read = (run / "config.toml", run / "metrics.jsonl", run / "model.pt", *([Path(file)] if file else []))
    for path in read:
        if is_same_file(target, path):
            raise UserError(f"the report would replace {path}, which is read; choose another --output")
    named = None if file is None else Path(file)
    findings = gather(run, named, model=model, data=data, limit=limit, command=command, tell=tell)
    tell("drawing")
    text = page(findings)
    with atomic_write(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Written(target, findings)
