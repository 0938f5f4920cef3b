"""The results of ``exactness.py`` as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qkd_deploy.atomic import atomic_write
from qkd_deploy.errors import UserError

BEGIN, END = "<!-- exactness: begin -->", "<!-- exactness: end -->"
_PACKED_RUNTIME = (1, 24)


def markdown(record: dict[str, Any]) -> str:
    """Where the files ran, one line per file, and what differs or did not run."""
    rows = [row for row in record["rows"] if "environments" in row]
    names = [environment["name"] for environment in record["environments"]]
    lines = ["| environment | CPU | ONNX Runtime | threads |", "|---|---|---|---|"]
    lines += [_environment(environment, record, rows) for environment in record["environments"]]
    lines += ["", _heading(names), "|---|---|---|" + "---:|" * (len(names) + 1)]
    lines += [_line(row, names) for row in rows]
    notes = [*_differences(rows), *_not_run(record["rows"], names)]
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    lines += ["", _summary(rows, names)]
    return "\n".join(lines)


def all_equal(rows: list[dict[str, Any]]) -> bool:
    """Whether no code and no output differs in files of default weight range, and every file could be made."""
    made = [row for row in rows if "environments" in row]
    cells = [cell for row in made if row["weight_range"] == "narrow" for cell in row["environments"].values()]
    return len(made) == len(rows) and not any(cell.get("codes") or cell.get("outputs") for cell in cells)


def insert(text: str, document: Path) -> None:
    """Put the table between the two markers of a document.

    Raises:
        UserError: the document is not there, or has no markers.
    """
    try:
        before, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    except OSError as error:
        raise UserError(f"cannot read {document}: {error.strerror}; give a Markdown file") from error
    _, found, after = rest.partition(END)
    if not found:
        raise UserError(f"{document} has no lines {BEGIN} and {END}; add them where the table belongs")
    with atomic_write(document) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def _environment(environment: dict[str, Any], record: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    cells = [row["environments"][environment["name"]] for row in rows]
    versions = {cell["onnxruntime"] for cell in cells if "onnxruntime" in cell}
    about = environment["about"]
    if about.startswith("this machine"):
        flags = record["provenance"]["cpu"]["flags"]
        present = [name for name, has in flags.items() if has] if isinstance(flags, dict) else []
        about += f": {record['provenance']['cpu']['model']} ({', '.join(present) or 'unknown instructions'})"
    version = ", ".join(sorted(versions)) or "not run"
    return f"| {environment['name']} | {about} | {version} | {environment['threads']} |"


def _heading(names: list[str]) -> str:
    return f"| model | bits | weights | codes | {' | '.join(names)} |"


def _line(row: dict[str, Any], names: list[str]) -> str:
    weights = row["weights"] if row["weight_range"] == "narrow" else f"{row['weights']}, full range"
    codes = f"{row['codes']:,}" + (f" + {row['loose']:,}" if row["loose"] else "")
    cells = [_cell(row["environments"][name], row) for name in names]
    return f"| {row['model']} | {row['bits'].upper()} | {weights} | {codes} | {' | '.join(cells)} |"


def _cell(cell: dict[str, Any], row: dict[str, Any]) -> str:
    if "error" in cell:
        return "-" if _too_old(cell, row) else "not run"
    text = f"{cell['codes']:,}"
    if cell["outputs"]:
        text += f", {cell['outputs']:,} outputs"
    return f"{text} + {cell['behind_float']:,}" if row["loose"] else text


def _too_old(cell: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether this is a packed file in a runtime that does not load them, which is no finding."""
    version = tuple(int(part) for part in cell.get("onnxruntime", "99.0").split(".")[:2])
    return row["weights"] == "packed" and version < _PACKED_RUNTIME


def _differences(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        by_text: dict[str, list[str]] = {}
        for name, cell in row["environments"].items():
            if cell.get("codes") or cell.get("outputs"):
                by_text.setdefault(_first(cell), []).append(name)
        for text, names in by_text.items():
            file = f"{row['model']} {row['bits'].upper()} ({row['weights']}, {row['weight_range']} range)"
            yield f"{file} in {', '.join(names)}: {text}"


def _first(cell: dict[str, Any]) -> str:
    first = cell["first"]
    unit = "values" if not cell["codes"] else "codes"
    return (
        f"first in `{first['module']}` ({first['operator']}), {first['of']:,} {unit} of `{first['tensor']}` "
        f"by up to {first['by']:.2g}"
    )


def _not_run(rows: list[dict[str, Any]], names: list[str]) -> Iterator[str]:
    for row in rows:
        if "error" in row:
            yield f"{row['model']} was not made: {row['error']}"
    reasons: dict[tuple[str, str], int] = {}
    for row in rows:
        for name, cell in row.get("environments", {}).items():
            if "error" in cell and not _too_old(cell, row):
                reasons[name, cell["error"]] = reasons.get((name, cell["error"]), 0) + 1
    for name in names:
        for (environment, reason), count in reasons.items():
            if environment == name:
                yield f"{name}: {count} files not run: {reason}"
    if any(_too_old(cell, row) for row in rows for cell in row.get("environments", {}).values()):
        yield "-: packed weights need ONNX Runtime 1.24"


def _summary(rows: list[dict[str, Any]], names: list[str]) -> str:
    cells = [
        (row["codes"], cell)
        for row in rows
        if row["weight_range"] == "narrow"
        for cell in row["environments"].values()
        if "error" not in cell
    ]
    compared, differing = sum(codes for codes, _ in cells), sum(cell["codes"] for _, cell in cells)
    outputs = sum(cell["outputs"] > 0 for _, cell in cells)
    return (
        f"Default weight range: {differing:,} of {compared:,} codes differ in {len(cells):,} runs of "
        f"{len({id(row) for row in rows if row['weight_range'] == 'narrow'})} files in {len(names)} environments; "
        f"outputs differ in {outputs} runs."
    )
