"""A model file, loaded to be measured, and something to feed it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qkd_deploy.errors import UserError
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.runtime import Runtime, RuntimeFault, Session, SessionInput

RUNTIME: Runtime = OnnxRuntime()


def load_session(model: Path | bytes, threads: int) -> Session:
    """Load a file, or its content, with all optimizations.

    Idle threads sleep, so that models timed in turns stay undisturbed.

    Raises:
        UserError: the runtime cannot load the file.
    """
    try:
        return RUNTIME.session(model, threads)
    except RuntimeFault as error:
        what = model if isinstance(model, Path) else "the model"
        raise UserError(f"{RUNTIME.name} {RUNTIME.version} cannot load {what}: {error.last_line}") from error


def noise_for(session: Session, batch: int) -> dict[str, np.ndarray]:
    """Seeded noise for every input; dimensions without a fixed size take ``batch``."""
    generator = np.random.default_rng(0)
    return {value.name: _noise(generator, value, batch) for value in session.inputs}


def _noise(generator: np.random.Generator, value: SessionInput, batch: int) -> np.ndarray:
    pixels = generator.integers(0, 256, [batch if size is None else size for size in value.shape])
    return pixels.astype(np.uint8) if value.is_uint8 else ((pixels - 128) / 64).astype(np.float32)
