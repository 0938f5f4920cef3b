"""Prepares the environments of the exactness table in a folder outside the repository; nothing needs root.

    python benchmarks/exactness_environments.py FOLDER

From PyPI: ``onnxruntime`` in three versions for this machine, and the newest one for arm64. From Debian, by ``apt``
with a state of its own (so on Debian or Ubuntu only): ``qemu-user-static`` where QEMU is not installed, and Python with
its libraries for arm64. What is there already is kept; remove the folder to begin anew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NEWEST = ""
ARM_WHEELS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
_ARM_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
# What processor detection reads in place of this machine's; which instructions there are, the kernel interface says.
_ARM_CPUINFO = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd03\n"


@dataclass(frozen=True)
class Environment:
    """Where files are run.

    Attributes:
        name: for ``--only``; heading of a column.
        about: the CPU, for readers.
        runtime: version of ONNX Runtime that pip is asked for; ``NEWEST``, or None for the one of this program.
        emulated: (architecture, CPU model) of QEMU; None for this machine's own CPU.
        threads: of every session.
    """

    name: str
    about: str
    runtime: str | None = NEWEST
    emulated: tuple[str, str] | None = None
    threads: int = 1

    @property
    def arm(self) -> bool:
        """Whether an arm64 CPU is emulated."""
        return self.emulated is not None and self.emulated[0] == "aarch64"


ENVIRONMENTS = (
    Environment("installed", "this machine, the installed ONNX Runtime", runtime=None),
    Environment("newest", "this machine"),
    Environment("newest, 2 threads", "this machine", threads=2),
    Environment("1.24", "this machine", runtime="1.24.*"),
    Environment("1.20", "this machine", runtime="1.20.*"),
    Environment("AVX2", "x86 with AVX2 and FMA, emulated (Haswell)", emulated=("x86_64", "Haswell")),
    Environment("SSE4", "x86 without AVX, emulated (Nehalem)", emulated=("x86_64", "Nehalem")),
    Environment("arm64", "arm64 without dot products, emulated (Cortex-A53)", emulated=("aarch64", "cortex-a53")),
    Environment("arm64 dot", "arm64 with dot products, emulated (Cortex-A76)", emulated=("aarch64", "cortex-a76")),
    Environment("arm64 i8mm", "arm64 with i8mm and SVE, emulated (max)", emulated=("aarch64", "max")),
)


class Missing(Exception):
    """Why an environment cannot be used."""


def command(environment: Environment, folder: Path | None) -> tuple[list[str], dict[str, str]]:
    """The command line of a Python in this environment, and its environment variables.

    Raises:
        Missing: a part of it has not been prepared.
    """
    if folder is None and environment.runtime is not None:
        raise Missing("give --environments, a folder that exactness_environments.py has prepared")
    emulator = []
    if environment.emulated is not None:
        emulator = [str(_emulator(folder, environment.emulated[0])), "-cpu", environment.emulated[1]]
    if folder is None or environment.runtime is None:
        return [*emulator, sys.executable], dict(os.environ)
    python, packages = Path(sys.executable), _packages(folder, environment)
    if environment.arm:
        python = _arm_root(folder) / "usr/bin/python3"
        emulator += ["-L", str(_arm_root(folder))]
    for path in (packages / "onnxruntime", python):
        if not path.exists():
            raise Missing("not prepared; run exactness_environments.py")
    # -S: nothing but the standard library and the packages of this environment
    return [*emulator, str(python), "-S"], {**os.environ, "PYTHONPATH": str(packages)}


def _packages(folder: Path, environment: Environment) -> Path:
    version = (environment.runtime or "newest").removesuffix(".*")
    return folder / f"onnxruntime-{version}{'-arm64' if environment.arm else ''}"


def _arm_root(folder: Path) -> Path:
    return folder / "arm64"


def _emulator(folder: Path | None, architecture: str) -> Path:
    name = f"qemu-{architecture}-static"
    for found in (shutil.which(name), folder and folder / "qemu/usr/bin" / name):
        if found is not None and Path(found).exists():
            return Path(found)
    raise Missing(f"{name} is not there; run exactness_environments.py, or install qemu-user-static")


def prepare(folder: Path, environments: Sequence[Environment] = ENVIRONMENTS) -> None:
    """Fetch everything that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for architecture in ("x86_64", "aarch64"):
            _emulator(folder, architecture)
    except Missing:
        _unpack(folder, ("qemu-user-static",), folder / "qemu", "", download="download")
    if not (_arm_root(folder) / "usr/bin/python3").exists():
        _unpack(folder, _ARM_PACKAGES, _arm_root(folder), "arm64", download="install")
    (_arm_root(folder) / "proc").mkdir(exist_ok=True)
    (_arm_root(folder) / "proc/cpuinfo").write_text(_ARM_CPUINFO)
    for environment in environments:
        if environment.runtime is not None:
            arm_root = _arm_root(folder) if environment.arm else None
            _install(environment.runtime, _packages(folder, environment), arm_root)


def _install(runtime: str, target: Path, arm_root: Path | None) -> None:
    if (target / "onnxruntime").exists():
        return
    call = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), "--only-binary=:all:"]
    if arm_root is not None:
        version = (arm_root / "usr/bin/python3").readlink().name.removeprefix("python")
        call += ["--python-version", version, *(f"--platform={tag}" for tag in ARM_WHEELS)]
    _run([*call, f"onnxruntime=={runtime}" if runtime else "onnxruntime", "numpy"])


def _unpack(folder: Path, packages: tuple[str, ...], target: Path, architecture: str, *, download: str) -> None:
    """Download Debian packages (``install``: with what they depend on) and unpack them, without installing anything."""
    state = folder / f"apt-{architecture or 'native'}"
    archives = state / "cache/archives"
    for needed in (archives / "partial", state / "lists/partial"):
        needed.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    settings = {"Dir::State": state, "Dir::State::status": state / "status", "Dir::Cache": state / "cache"}
    options = [f"-o{key}={value}" for key, value in settings.items()]
    if architecture:
        options += [f"-oAPT::Architecture={architecture}", f"-oAPT::Architectures={architecture}"]
    _run(["apt-get", "-qq", *options, "update"])
    how = ["install", "--download-only", "--no-install-recommends", "-y"] if download == "install" else ["download"]
    _run(["apt-get", "-qq", *options, *how, *packages], cwd=archives)
    for archive in archives.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(archive), str(target)])


def _run(call: list[str], cwd: Path | None = None) -> None:
    print("$", " ".join(call), file=sys.stderr)
    subprocess.run(call, cwd=cwd, check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    try:
        prepare(parser.parse_args().folder.resolve())
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
