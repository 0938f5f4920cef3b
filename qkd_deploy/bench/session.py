"""A model file, loaded to be measured."""

from __future__ import annotations

from pathlib import Path

from qkd_deploy.errors import UserError
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.runtime import Runtime, RuntimeFault, Session

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
