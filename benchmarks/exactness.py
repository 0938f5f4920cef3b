"""Are the codes of exported files the same on every CPU, thread count and version of ONNX Runtime? A table of answers.

    python benchmarks/exactness_environments.py FOLDER
    python benchmarks/exactness.py --environments FOLDER --json docs/results/exactness.json --table docs/exactness.md

Every built-in network, and a gallery of further operators, is trained for a few steps, frozen and exported at each
width; each environment (see ``exactness_environments.py``) then runs the files and counts codes and outputs that are
not the frozen model's. Exit code 0: all equal where the weights have their default range; 1: not so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from exactness_environments import ENVIRONMENTS, Environment, Missing, command
from exactness_models import File, build_files, network_names
from exactness_table import all_equal, insert, markdown
from provenance import provenance

from qkd_deploy.atomic import atomic_write
from qkd_deploy.bits import BitWidths
from qkd_deploy.errors import UserError

WORKER = Path(__file__).with_name("exactness_worker.py")
_FULL_RANGE = "w8a8"  # the width at which weights of full range are tried


def run(environment: Environment, files: list[File], folder: Path | None, timeout: float) -> dict[str, dict[str, Any]]:
    """What the worker found, by the name of the file's folder; an ``error`` for every file that it did not report."""
    found: dict[str, dict[str, Any]] = {}
    try:
        python, variables = command(environment, folder)
    except Missing as error:
        return {file.folder.name: {"error": str(error)} for file in files}
    while left := [file for file in files if file.folder.name not in found]:
        call = [*python, str(WORKER), str(environment.threads), *(str(file.folder) for file in left)]
        with subprocess.Popen(
            call, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as worker:
            limit = threading.Timer(timeout, worker.kill)
            limit.start()
            assert worker.stdout is not None
            for result in map(json.loads, worker.stdout):
                found[result["folder"]] = result
            limit.cancel()
        lost = next((file.folder.name for file in left if file.folder.name not in found), None)
        if lost is not None:  # it crashed on this file, or was stopped: go on behind it
            found[lost] = {"error": f"the worker ended with exit status {worker.returncode}"}
    return found


def cell(file: File, result: dict[str, Any]) -> dict[str, Any]:
    """One entry of the table: how many codes and outputs differ, and the first tensor that does, with its operator."""
    about = {key: result[key] for key in ("onnxruntime", "machine") if key in result}
    if "error" in result:
        return {**about, "error": result["error"].replace(f"{file.folder.parent}/", "")}
    counts = {**result["differing"]["codes.onnx"], **result["differing"]["model.onnx"]}
    entry: dict[str, Any] = {**about, "codes": 0, "outputs": 0, "behind_float": 0}
    for name, (module, operator) in file.operators.items():
        count, largest = counts.get(name, (0, 0.0))
        kind, _, value = name.partition(":")
        group = "behind_float" if value in file.after_float else f"{kind}s"
        entry[group] += count
        if count and group != "behind_float" and "first" not in entry:
            entry["first"] = {"tensor": value, "module": module, "operator": operator, "of": count, "by": largest}
    return entry


def build(options: argparse.Namespace, folder: Path) -> tuple[list[File], list[dict[str, Any]]]:
    """The files of all networks, and an entry for each network that could not be made.

    Raises:
        UserError: an unknown network, or impossible bits.
    """
    variants = [(str(BitWidths.parse(bits)), "narrow") for bits in options.bits.split(",")]
    variants += [(_FULL_RANGE, "full")] if _FULL_RANGE in options.bits else []
    files: list[File] = []
    failed = []
    for name in options.models.split(","):
        try:
            files += build_files(name, variants, options.images, folder)
        except UserError as error:
            if name not in network_names():
                raise
            files = [file for file in files if file.model != name]
            failed.append({"model": name, "error": str(error)})
        print(f"{name} is made: {len(files)} files so far", file=sys.stderr, flush=True)
    return files, failed


def measure(options: argparse.Namespace, chosen: list[Environment]) -> list[dict[str, Any]]:
    """One row per file."""
    with tempfile.TemporaryDirectory(prefix="exactness-") as folder:
        files, failed = build(options, Path(folder))
        rows: list[dict[str, Any]] = [{**_described(file), "environments": {}} for file in files]
        for environment in chosen:
            found = run(environment, files, options.environments, options.timeout)
            for file, row in zip(files, rows, strict=True):
                row["environments"][environment.name] = cell(file, found[file.folder.name])
            print(f"{environment.name} is done", file=sys.stderr, flush=True)
    return rows + failed


def other_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of an earlier run about other networks.

    Raises:
        UserError: there is no file of an earlier run.
    """
    try:
        record = json.loads(options.json.read_text(encoding="utf-8"))
    except (AttributeError, OSError, json.JSONDecodeError) as error:
        raise UserError("--update needs the file of an earlier run; give --json") from error
    commit = record["provenance"]["commit"]
    return [{"commit": commit, **row} for row in record["rows"] if row["model"] not in options.models.split(",")]


def _described(file: File) -> dict[str, Any]:
    kept = ("model", "bits", "weights", "weight_range", "codes", "loose")
    return {**{name: getattr(file, name) for name in kept}, "input": list(file.shape)}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, help="folder that exactness_environments.py has prepared")
    parser.add_argument("--only", help="names of environments, separated by commas (all)")
    parser.add_argument("--models", default=",".join(network_names()), help="names, separated by commas (all)")
    parser.add_argument("--bits", default="w8a8,w4a4,w2a2", help="widths, separated by commas")
    parser.add_argument("--images", type=int, default=2, help="inputs of every file")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for all files in one environment")
    parser.add_argument("--json", type=Path, help="write the results, with their provenance, to this file")
    parser.add_argument("--update", action="store_true", help="keep the rows of other networks that --json holds")
    parser.add_argument("--table", type=Path, help="replace the table between the markers of this Markdown file")
    return parser.parse_args()


def chosen_environments(only: str | None) -> list[Environment]:
    """The environments of ``--only``, in their usual order.

    Raises:
        UserError: a name that is none.
    """
    known = {environment.name: environment for environment in ENVIRONMENTS}
    names = list(known) if only is None else [name.strip() for name in only.split(",")]
    for name in names:
        if name not in known:
            raise UserError(f"unknown environment {name!r}; choose some of {', '.join(known)}")
    return [environment for environment in ENVIRONMENTS if environment.name in names]


def main() -> int:
    """Build, run, compare and write; 2 on bad input, with one line that says why."""
    options = arguments()
    torch.set_num_threads(1)
    try:
        if options.images < 1:
            raise UserError(f"cannot compare on {options.images} inputs; give --images 1 or more")
        chosen = chosen_environments(options.only)
        origin = provenance()  # of the code that is loaded now; a checkout may change while it runs
        kept = other_rows(options) if options.update else []
        rows = [*kept, *measure(options, chosen)]
        record = {
            "provenance": origin,
            "environments": [{"name": e.name, "about": e.about, "threads": e.threads} for e in chosen],
            "rows": rows,
        }
        text = markdown(record)
        print(text)
        if options.table is not None:
            insert(text, options.table)
        if options.json is not None:
            with atomic_write(options.json) as temporary:
                temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if all_equal(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
