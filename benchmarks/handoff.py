"""Runs a bundle of ``qkd-deploy handoff`` where an application would: bare environments, three kinds of CPUs, C++.

    python benchmarks/handoff_environments.py FOLDER            # once; on Debian
    python benchmarks/handoff.py BUNDLE FOLDER --json FILE

``check.py`` runs with NumPy and the runtime alone on this machine, on x86 with AVX2 and without VNNI, and on two kinds
of arm64 (all but the first under QEMU): as it is, with the sign of one weight changed, and with a missing and a foreign
model. The CMake project in ``examples/cpp`` is built for this machine and, with Debian's cross compiler, for arm64, and
runs on all of them. Latencies under emulation say nothing about any device.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from exactness_environments import ENVIRONMENTS, Environment, command
from onnx import numpy_helper
from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("newest", "AVX2", "arm64", "arm64 dot")
EXPECTED = {"as it is": 0, "one weight changed": 1, "no model": 2, "a foreign model": 2}


def change_a_weight(file: Path) -> None:
    """Give the largest weight of the last layer the other sign."""
    model = onnx.load(file)
    tensor = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1][-1]
    codes = numpy_helper.to_array(tensor).copy()
    at = np.unravel_index(np.abs(codes.astype(int)).argmax(), codes.shape)
    codes[at] = -codes[at]
    tensor.CopyFrom(numpy_helper.from_array(codes, tensor.name))
    file.write_bytes(model.SerializeToString())


CHANGES: dict[str, Callable[[Path], object]] = {
    "as it is": lambda file: None,
    "one weight changed": change_a_weight,
    "no model": Path.unlink,
    "a foreign model": lambda file: file.write_bytes(b"something else"),
}


def checks(bundle: Path, environment: Environment, folder: Path) -> dict[str, Any]:
    """Run ``check.py`` on every kind of bundle in one environment."""
    call, variables = command(environment, folder)
    found = {}
    for kind, change in CHANGES.items():
        with tempfile.TemporaryDirectory() as temporary:
            own = Path(shutil.copytree(bundle, Path(temporary) / "bundle"))
            change(own / json.loads((own / "manifest.json").read_text())["model"])
            found[kind] = run([*call, str(own / "check.py"), "--runs", "5"], variables, own)
    return found


def run(call: list[str], variables: dict[str, str], own: Path) -> dict[str, Any]:
    """The exit code of a program, and what it said."""
    done = subprocess.run(call, env=variables, cwd="/", capture_output=True, text=True, check=False)
    lines = [
        line.replace(f"{own}/", "").replace(str(own), "bundle") for line in (done.stdout + done.stderr).splitlines()
    ]
    return {"exit": done.returncode, "said": [line for line in lines if not line.startswith("qemu-")]}


def build(bundle: Path, folder: Path, where: Path, arm: bool) -> Path:
    """Build the CMake project for this machine or for arm64; returns the program."""
    packages = folder / ("onnxruntime-newest-arm64" if arm else "onnxruntime-newest")
    (library,) = (packages / "onnxruntime/capi").glob("libonnxruntime.so.*")
    configure = ["cmake", "-S", str(ROOT / "examples/cpp"), "-B", str(where), f"-DBUNDLE={bundle}"]
    configure += [f"-DONNXRUNTIME_INCLUDE={folder / 'headers/usr/include/onnxruntime'}"]
    configure += [f"-DONNXRUNTIME_LIBRARY={library}"]
    if arm:
        configure.append(f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'examples/cpp/aarch64.cmake'}")
    for call in (configure, ["cmake", "--build", str(where)]):
        subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    return where / "replay"


def programs(bundle: Path, folder: Path, environments: list[Environment]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run the C++ program in every environment, with the bundle as it is and with one weight changed."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        built = {arm: build(bundle, folder, work / str(arm), arm) for arm in (False, True)}
        changed = Path(shutil.copytree(bundle, work / "changed"))
        change_a_weight(changed / json.loads((changed / "manifest.json").read_text())["model"])
        for environment in environments:
            call, _ = command(environment, folder)
            emulator = [word for word in call[:-2] if word]  # without Python and its option
            results = {}
            for kind, own in (("as it is", bundle), ("one weight changed", changed)):
                results[kind] = run([*emulator, str(built[environment.arm]), str(own)], dict(os.environ), own)
            yield environment.name, results


def kotlin(bundle: Path) -> dict[str, Any] | None:
    """Compile the Kotlin snippet and run it on all greys; None without a compiler."""
    compiler, snippet = shutil.which("kotlinc"), bundle / "snippets/Preprocess.kt"
    if compiler is None or not snippet.exists():
        return None
    described = json.loads((bundle / "preprocessing.json").read_text())
    places = described["height"] * described["width"]
    program = f"""
fun main() {{
    val grey = IntArray({places}) {{ i -> val g = (i * 37 + 11) % 256; (255 shl 24) or (g shl 16) or (g shl 8) or g }}
    println(preprocess(grey).joinToString(" "))
}}
"""
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "main.kt").write_text(program)
        jar = Path(temporary) / "main.jar"
        call = [compiler, str(snippet), str(Path(temporary) / "main.kt"), "-include-runtime", "-d", str(jar)]
        subprocess.run(call, check=True, capture_output=True)
        done = subprocess.run(["java", "-jar", str(jar)], check=True, capture_output=True, text=True)
    pixels = (np.arange(places) * 37 + 11) % 256
    known = described["normalization"] or {"mean": [0.0], "std": [1.0], "divisor": 1.0}
    each = [
        (pixels.astype(np.float32) / np.float32(known["divisor"]) - np.float32(mean)) / np.float32(std)
        for mean, std in zip(known["mean"], known["std"], strict=True)
    ]
    got = np.array(done.stdout.split(), np.float32)
    return {"values": got.size, "differing": int((np.concatenate(each) != got).sum())}


def main() -> int:
    """Run everything; the exit code is 1 where something does not come out as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path, help="that handoff_environments.py has prepared")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bundle, folder = options.bundle.resolve(), options.folder.resolve()
    chosen = [environment for environment in ENVIRONMENTS if environment.name in NAMES]
    report: dict[str, Any] = {"check.py": {}, "C++": {}, "provenance": provenance()}
    for environment in chosen:
        report["check.py"][environment.name] = {"about": environment.about, **checks(bundle, environment, folder)}
        print(environment.name, {kind: report["check.py"][environment.name][kind]["exit"] for kind in EXPECTED})
    for name, results in programs(bundle, folder, chosen):
        report["C++"][name] = results
        print(name, "C++", {kind: result["exit"] for kind, result in results.items()})
    report["Kotlin"] = kotlin(bundle)
    print("Kotlin", report["Kotlin"])
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    codes = [
        (kind, result["exit"])
        for found in report["check.py"].values()
        for kind, result in found.items()
        if kind in EXPECTED
    ]
    codes += [(kind, result["exit"]) for found in report["C++"].values() for kind, result in found.items()]
    return 0 if all(EXPECTED[kind] == code for kind, code in codes) else 1


if __name__ == "__main__":
    sys.exit(main())
