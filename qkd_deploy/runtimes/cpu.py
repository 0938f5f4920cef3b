"""The CPU of this machine: the instruction sets that decide how integer kernels add up."""

from __future__ import annotations

import platform
from pathlib import Path

from qkd_deploy.provenance import UNKNOWN, cpu

_TITLES = {"avx512f": "avx512", "amx_int8": "amx", "asimddp": "dot_product"}


def cpu_capabilities(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str | bool]:
    """Processor architecture and the instruction sets that matter to integer kernels.

    Where the operating system has no ``cpuinfo``, only the architecture is known.
    """
    found: dict[str, str | bool] = {"architecture": platform.machine()}
    known = cpu(cpuinfo)
    flags = known["flags"]
    if isinstance(flags, str):
        return found
    if known["model"] != UNKNOWN:
        found["model"] = known["model"]
    found |= {_TITLES.get(flag, flag): present for flag, present in flags.items()}
    found["vnni"] = flags["avx_vnni"] or flags["avx512_vnni"]
    return found
