"""Peak memory of one model: a program of its own, because memory that a process once used cannot be told apart later.

``python -m qkd_deploy.bench.peak_memory MODEL BATCH THREADS`` prints the bytes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from qkd_deploy.bench.session import load_session, noise_for


def peak_memory(path: Path, batch: int, threads: int) -> int | None:
    """Bytes that loading the model and running one batch need beyond an idle runtime; None where it is not known.

    Known on Linux, whose kernel keeps the highest resident size of each process.
    """
    arguments = [sys.executable, "-m", "qkd_deploy.bench.peak_memory", str(path), str(batch), str(threads)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdigit() else None


def _peak_resident() -> int:
    """Highest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kilobytes) * 1024


def _measure(path: Path, batch: int, threads: int) -> int:
    before = _peak_resident()
    loaded = load_session(path, threads)
    loaded.run(noise_for(loaded, batch))
    return _peak_resident() - before


if __name__ == "__main__":
    sys.stdout.write(str(_measure(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
