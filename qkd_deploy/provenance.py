"""Record the provenance of a measurement: software, hardware, commit, command line."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

UNKNOWN = "unknown"
_PACKAGES = ("qkd-deploy", "torch", "onnx", "onnxruntime", "numpy")
# The instruction sets that decide how fast (and on x86 without VNNI: how safely) integer kernels run.
_CPU_FLAGS = ("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve")


def provenance(command: str) -> dict[str, Any]:
    """Collect what a reader needs to judge or repeat a measurement; no host, user or path but those in ``command``."""
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu(),
    }


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Read the CPU's model name and which of the instruction sets that matter it has (on Linux)."""
    info = _first_entries(cpuinfo)
    flags = _flags(info)
    name = info.get("model name") or platform.processor() or UNKNOWN
    return {"model": name, "flags": {flag: flag in flags for flag in _CPU_FLAGS} if flags else UNKNOWN}


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Read all that the CPU says that it can do (on Linux; empty elsewhere)."""
    return _flags(_first_entries(cpuinfo))


def _flags(info: Mapping[str, str]) -> frozenset[str]:
    return frozenset(info.get("flags", info.get("Features", "")).split())


def _first_entries(cpuinfo: Path) -> dict[str, str]:
    """What the file says of the first processor."""
    info: dict[str, str] = {}
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            info.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    return info


@cache
def _commit() -> str:
    """Name the commit of the checkout that this file belongs to, with "+changes" when files differ from it.

    "unknown" where it belongs to none, even if it happens to lie inside one, as in a project's virtual environment.
    """
    file = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        call = ["git", *arguments]
        return subprocess.run(call, cwd=file.parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
