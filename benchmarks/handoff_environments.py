"""Prepares the environments of ``benchmarks/handoff.py`` in a folder outside the repository; nothing needs root.

    python benchmarks/handoff_environments.py FOLDER

Those of ``exactness_environments.py`` that it uses, and the C and C++ headers of ONNX Runtime 1.21 from Debian 13:
their interface has a version, and every later library serves it. The cross compiler for arm64 and CMake have to be
installed (``apt-get install g++-aarch64-linux-gnu cmake``).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import exactness_environments
from handoff import NAMES

_HEADERS = "libonnxruntime-dev"
_SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n"


def headers(folder: Path) -> None:
    """Fetch the headers that are not there yet, by ``apt`` with a state of its own."""
    if (folder / "headers/usr/include/onnxruntime").exists():
        return
    state = folder / "apt-trixie"
    for needed in (state / "lists/partial", state / "cache/archives/partial"):
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
    for how in (["update"], ["download", _HEADERS]):
        subprocess.run(["apt-get", "-qq", *options, *how], cwd=state, check=True)
    for archive in state.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder / "headers")], check=True)


def main() -> None:
    """Fetch everything that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    exactness_environments.prepare(folder, [e for e in exactness_environments.ENVIRONMENTS if e.name in NAMES])
    headers(folder)


if __name__ == "__main__":
    try:
        main()
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
