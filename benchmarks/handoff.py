"""Runs bundles of ``qkd-deploy handoff`` where an application would: bare environments, three kinds of CPUs, C++.

    python benchmarks/handoff_environments.py FOLDER --swift            # once; on Debian
    python benchmarks/handoff.py FOLDER BUNDLE... --json FILE

``check.py`` of each bundle, for ONNX Runtime or for LiteRT, runs with NumPy and that runtime alone on this machine, on
x86 with AVX2 and without VNNI, and on two kinds of arm64 (all but the first under QEMU): as it is, with the sign of one
weight changed, and with a missing and a foreign model. The CMake project in ``examples/cpp`` is built for this machine
and, with Debian's cross compiler, for arm64, and runs on all of them. Snippets in other languages are compiled and
compared with the Python one (``handoff_snippets.py``). Latencies under emulation say nothing about any device.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from changed_weight import change_a_weight
from exactness_environments import ENVIRONMENTS, Environment, command
from handoff_snippets import compared
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("newest", "AVX2", "arm64", "arm64 dot")
EXPECTED = {"as it is": 0, "one weight changed": 1, "no model": 2, "a foreign model": 2}
CHANGES: dict[str, Callable[[Path], object]] = {
    "as it is": lambda file: None,
    "one weight changed": change_a_weight,
    "no model": Path.unlink,
    "a foreign model": lambda file: file.write_bytes(b"something else"),
}


class Bundle:
    """A bundle, and what its target needs."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path.resolve(), folder
        manifest = json.loads((path / "manifest.json").read_text())
        self.model: str = manifest["model"]
        self.target: str = manifest["target"]

    def packages(self, environment: Environment) -> Path:
        """The folder with NumPy and the runtime."""
        name = "litert" if self.target == "litert" else "onnxruntime-newest"
        return self.folder / f"{name}{'-arm64' if environment.arm else ''}"

    def library(self, environment: Environment) -> list[str]:
        """How CMake is told where the runtime is."""
        packages = self.packages(environment)
        if self.target == "litert":
            return [f"-DLITERT_LIBRARY={packages / 'ai_edge_litert/libLiteRt.so'}"]
        (library,) = (packages / "onnxruntime/capi").glob("libonnxruntime.so.*")
        headers = self.folder / "headers/usr/include/onnxruntime"
        return [f"-DONNXRUNTIME_LIBRARY={library}", f"-DONNXRUNTIME_INCLUDE={headers}"]

    def changed(self, kind: str, where: Path) -> Path:
        """A copy with a model of that kind."""
        own = Path(shutil.copytree(self.path, where / "bundle"))
        CHANGES[kind](own / self.model)
        return own


def checks(bundle: Bundle, environment: Environment) -> dict[str, Any]:
    """Run ``check.py`` on every kind of bundle in one environment."""
    call, variables = command(environment, bundle.folder)
    variables = {**variables, "PYTHONPATH": str(bundle.packages(environment))}
    return {kind: _on_copy(bundle, kind, [*call, "BUNDLE/check.py", "--runs", "5"], variables) for kind in CHANGES}


def programs(bundle: Bundle, environment: Environment, program: Path) -> dict[str, Any]:
    """Run the C++ program on every kind of bundle in one environment."""
    call, _ = command(environment, bundle.folder)
    emulator = call[:-2]  # without Python and its option
    return {kind: _on_copy(bundle, kind, [*emulator, str(program), "BUNDLE"], dict(os.environ)) for kind in CHANGES}


def _on_copy(bundle: Bundle, kind: str, call: list[str], variables: dict[str, str]) -> dict[str, Any]:
    """The exit code of a program, and what it said but for the runtime's own messages."""
    with tempfile.TemporaryDirectory() as temporary:
        own = str(bundle.changed(kind, Path(temporary)))
        call = [word.replace("BUNDLE", own) for word in call]
        done = subprocess.run(call, env=variables, cwd="/", capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    said = [line.replace(f"{own}/", "").replace(own, "bundle") for line in [*done.stdout.splitlines(), *errors]]
    return {"exit": done.returncode, "said": said}


def build(bundle: Bundle, environment: Environment, where: Path) -> Path:
    """Build the CMake project for the kind of machine; returns the program."""
    configure = ["cmake", "-S", str(ROOT / "examples/cpp"), "-B", str(where), f"-DBUNDLE={bundle.path}"]
    configure += bundle.library(environment)
    if environment.arm:
        configure.append(f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'examples/cpp/aarch64.cmake'}")
    for call in (configure, ["cmake", "--build", str(where)]):
        subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    return where / "replay"


def measure(bundle: Bundle) -> dict[str, Any]:
    """All of one bundle: what ``check.py`` and the C++ program end with in every environment."""
    found: dict[str, Any] = {"check.py": {}, "C++": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for environment in (environment for environment in ENVIRONMENTS if environment.name in NAMES):
            where = Path(temporary) / ("arm64" if environment.arm else "native")
            program = where / "replay" if where.exists() else build(bundle, environment, where)
            for name, results in (
                ("check.py", checks(bundle, environment)),
                ("C++", programs(bundle, environment, program)),
            ):
                found[name][environment.name] = {"about": environment.about, **results}
                print(bundle.target, environment.name, name, {kind: results[kind]["exit"] for kind in EXPECTED})
    return found


def main() -> int:
    """Run everything; the exit code is 1 where something does not come out as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="that handoff_environments.py has prepared")
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = options.folder.resolve()
    bundles = [Bundle(path, folder) for path in options.bundles]
    report: dict[str, Any] = {"provenance": provenance(), "bundles": {one.target: measure(one) for one in bundles}}
    images = [one.path / one.model for one in bundles if one.target == "ort"]
    report["snippets"] = compared(images[0], folder) if images else {}
    print(json.dumps(report["snippets"]))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    wrong = [
        (target, program, environment, kind)
        for target, found in report["bundles"].items()
        for program, results in found.items()
        for environment, ended in results.items()
        for kind, code in EXPECTED.items()
        if ended[kind]["exit"] != code
    ]
    differing = [one for kinds in report["snippets"].values() for one in kinds.values() if one["bytes that differ"]]
    print("wrong:", wrong or "nothing", "; snippets that differ:", len(differing))
    return 1 if wrong or differing else 0


if __name__ == "__main__":
    sys.exit(main())
