"""Whether a file may run in this process: what is not surely small runs in one of its own first, within limits."""

from __future__ import annotations

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.gate.onnx_file import OnnxFile
from qkd_deploy.runtimes.limited_run import MEMORY, limited_run
from qkd_deploy.runtimes.runtime import RuntimeFault

_MOST_WORK = 10**13
"""Multiplications for two samples: the exact reference would compute for hours."""
_LIVE = 4
"""Values as large as the largest one that are held at a time, at most."""


def require_runnable(file: OnnxFile, sizes: tuple[int, ...] | None = None) -> None:
    """Refuse a file that takes more time or memory than a model of two samples may.

    Args:
        file: one that the gate has let through.
        sizes: those that it leaves open beside the batch; None asks its metadata.

    Raises:
        UserError: it does, or the runtime crashes.
    """
    cost = file.cost
    if cost.easy:
        return
    if cost.work > _MOST_WORK:
        raise UserError(
            f"{file.path} would take {cost.work:.0e} multiplications for two inputs; export a smaller model"
        )
    try:
        limited_run(file.data, sizes=read_metadata(file.model).open_sizes if sizes is None else sizes)
    except RuntimeFault as error:
        raise UserError(f"{file.path} cannot be run: {error.last_line}; export a smaller model") from error


def samples_at_a_time(file: OnnxFile, wanted: int) -> int:
    """How many samples can be run at a time within the memory of ``limited_run``: ``wanted``, or fewer."""
    per_sample = max(1, file.cost.largest // 2)
    return max(1, min(wanted, MEMORY // (_LIVE * per_sample)))
