"""One run of a model in a process of its own, with an end to its time and its memory.

``python -m qkd_deploy.runtimes.limited_run FILE BATCH THREADS MEMORY [SIZE ...]`` prints the bytes that the model
needed beyond an idle runtime; with ``-`` for FILE it reads the model from stdin. What runs away or crashes takes nobody
along.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.runtime import RuntimeFault, SessionInput

SECONDS = 60.0
MEMORY = 4 * 2**30
"""Bytes of a process that loads and runs a model which nobody vouches for."""
_UNLIMITED = 0
_OUT_OF_MEMORY = ("bad_alloc", "allocate", "memory")


def limited_run(
    model: Path | bytes,
    batch: int = 2,
    threads: int = 1,
    *,
    seconds: float | None = SECONDS,
    memory: int = MEMORY,
    sizes: tuple[int, ...] = (),
) -> int | None:
    """Load a model and run one batch of noise; returns the bytes that this needed, None where that is not known.

    Args:
        model: a file or its content.
        batch: samples.
        threads: of the session.
        seconds: after which the process is killed; None waits.
        memory: bytes that it may have in all; 0 for any.
        sizes: those that the model leaves open beside the batch, as in ``noise_for``.

    Raises:
        RuntimeFault: it took too long or too much, crashed, or the runtime refused the model or the inputs.
    """
    content, file = (model, "-") if isinstance(model, bytes) else (b"", str(model.absolute()))
    numbers = map(str, (batch, threads, memory, *sizes))
    command = [sys.executable, "-m", "qkd_deploy.runtimes.limited_run", file, *numbers]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeFault(f"one run on {batch} inputs takes longer than {seconds:.0f} seconds") from error
    if done.returncode < 0:
        raise RuntimeFault(f"one run on {batch} inputs crashes it (signal {-done.returncode})")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeFault(lines[-1] if lines else f"one run ended with {done.returncode}")
    told = done.stdout.decode(errors="replace").strip()
    return int(told) if told.isdigit() else None


def noise_for(inputs: Sequence[SessionInput], batch: int, sizes: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """Seeded noise for every input; zeros where it is of whole numbers, for not every class or place may exist.

    Args:
        inputs: what is to be filled.
        batch: the first dimension where it has no fixed size.
        sizes: the others without one, in order; ``batch`` where they are not known.
    """
    generator = np.random.default_rng(0)
    return {value.name: _noise(generator, value, batch, sizes) for value in inputs}


def _noise(generator: np.random.Generator, value: SessionInput, batch: int, sizes: tuple[int, ...]) -> np.ndarray:
    following = iter((batch, *sizes) if value.shape and value.shape[0] is None else sizes)
    shape = [next(following, batch) if size is None else size for size in value.shape]
    pixels = generator.integers(0, 256, shape, dtype=np.uint8)
    if value.dtype.kind == "f":
        return ((pixels.astype(np.float32) - 128) / 64).astype(value.dtype)
    if value.dtype in (np.uint8, np.bool_):
        return pixels if value.dtype == np.uint8 else pixels > 127
    return np.zeros(shape, value.dtype)


def peak_resident() -> int | None:
    """Highest resident size of this process so far, in bytes; known on Linux, whose kernel keeps it."""
    with contextlib.suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) * 1024
    return None


def _limit_memory(memory: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # where the system knows no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _main(file: str, batch: int, threads: int, memory: int, *sizes: int) -> int:
    model = sys.stdin.buffer.read() if file == "-" else Path(file)
    before = peak_resident()
    if memory != _UNLIMITED:
        _limit_memory(memory)
    try:
        session = OnnxRuntime().session(model, threads)
        session.run(noise_for(session.inputs, batch, sizes))
    except (MemoryError, RuntimeFault, ValueError) as error:
        line = " ".join(str(error).split())
        if isinstance(error, MemoryError) or any(word in line.lower() for word in _OUT_OF_MEMORY):
            line = f"one run on {batch} inputs needs more than {memory / 2**30:.0f} GB"
        sys.stderr.write(f"{line}\n")
        return 1
    after = peak_resident()
    sys.stdout.write("" if before is None or after is None else str(after - before))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], *map(int, sys.argv[2:])))
