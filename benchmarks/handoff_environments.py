"""Prepares the environments of ``benchmarks/handoff.py`` in a folder outside the repository; nothing needs root.

    python benchmarks/handoff_environments.py FOLDER [--swift]

Those of ``exactness_environments.py`` that it uses, LiteRT and NumPy for the same machines, and the C and C++ headers
of ONNX Runtime 1.21 from Debian 13: their interface has a version, and every later library serves it. With ``--swift``,
Debian 13's Swift compiler as well, which takes 3 GB. The cross compiler for arm64 and CMake have to be installed
(``apt-get install g++-aarch64-linux-gnu cmake``), and so has Kotlin for its snippet.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import exactness_environments
from handoff import NAMES

_HEADERS = ("libonnxruntime-dev",)
_SWIFT = ("swiftlang", "base-files", "coreutils", "libc6-dev", "libstdc++-14-dev")
_SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n"


def from_debian_13(folder: Path, packages: Sequence[str], target: Path, *, alone: bool) -> None:
    """Unpack packages by ``apt`` with a state of its own: alone, or with all that they depend on."""
    state = folder / f"apt-{target.name}"
    archives = state / "cache/archives"
    for needed in (state / "lists/partial", archives / "partial"):
        needed.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    (state / "sources.list").write_text(_SOURCE)
    settings = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": state / "none",
    }
    options = [f"-o{key}={value}" for key, value in settings.items()]
    how = ["download"] if alone else ["install", "--download-only", "--no-install-recommends", "-y"]
    for what in (["update"], [*how, *packages]):
        subprocess.run(["apt-get", "-qq", *options, *what], cwd=archives, check=True)
    for archive in archives.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(archive), str(target)], check=True)


def litert(folder: Path, python: Path | None) -> None:
    """Install NumPy and LiteRT, in the version that is installed here, for the Python of the arm64 root or this one."""
    target = folder / ("litert" if python is None else "litert-arm64")
    if (target / "ai_edge_litert").exists():
        return
    call = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), "--only-binary=:all:"]
    if python is not None:
        wanted = python.readlink().name.removeprefix("python")
        call += ["--python-version", wanted, *(f"--platform={tag}" for tag in exactness_environments.ARM_WHEELS)]
    packages = [f"ai-edge-litert=={version('ai-edge-litert')}", "numpy"]
    subprocess.run([*call, "--no-deps", *packages], check=True)


def main() -> None:
    """Fetch everything that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--swift", action="store_true")
    options = parser.parse_args()
    folder = options.folder.resolve()
    exactness_environments.prepare(folder, [e for e in exactness_environments.ENVIRONMENTS if e.name in NAMES])
    litert(folder, None)
    litert(folder, folder / "arm64/usr/bin/python3")
    if not (folder / "headers/usr/include/onnxruntime").exists():
        from_debian_13(folder, _HEADERS, folder / "headers", alone=True)
    if options.swift and not (folder / "swift/usr/bin/swiftc").is_symlink():
        from_debian_13(folder, _SWIFT, folder / "swift", alone=False)


if __name__ == "__main__":
    try:
        main()
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
