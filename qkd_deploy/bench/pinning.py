"""Which CPUs of the machine a measurement keeps to."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")


def cpus_for(threads: int, topology: Path = _TOPOLOGY) -> tuple[int, ...]:
    """Choose a CPU for every thread, each of another core where there are enough; () where that cannot be had.

    The last ones are taken: the first serves interrupts on many machines.
    """
    if not hasattr(os, "sched_getaffinity"):  # macOS and Windows
        return ()
    allowed = sorted(os.sched_getaffinity(0), reverse=True)
    first: dict[str, int] = {}
    for cpu in allowed:
        first.setdefault(_core(cpu, topology), cpu)
    ordered = [*first.values(), *(cpu for cpu in allowed if cpu not in first.values())]
    return tuple(ordered[:threads]) if threads <= len(ordered) else ()


def keep_to(cpus: tuple[int, ...]) -> None:
    """Let this process run on these CPUs alone, as far as the system lets it; () on all."""
    if cpus:
        with contextlib.suppress(OSError):  # what a container forbids
            os.sched_setaffinity(0, cpus)


def _core(cpu: int, topology: Path) -> str:
    """What the CPUs of one core have in common."""
    try:
        return (topology / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)
