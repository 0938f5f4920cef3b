"""The curves of a run for TensorBoard; docs/monitoring.md lists the tags."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from qkd_deploy.training.metrics import EpochRecord

if TYPE_CHECKING:
    from qkd_deploy.training.observe import Observation, TensorObservation


class EventFiles:
    """Writes event files, one for each process that has worked on the run.

    Global step n is line n of ``metrics.jsonl``.

    Args:
        folder: of the event files; it need not exist.
        first_step: the step that comes next. What an earlier process wrote from there on is purged.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _wait_for_a_later_name(folder)
        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, step: int, record: EpochRecord, observation: Observation | None) -> None:
        """Write one epoch; it is in the file on return.

        Raises:
            OSError: the file cannot be written.
        """
        for tag, value in scalars(record, observation).items():
            self._writer.add_scalar(tag, value, step)
        for tensor in observation.tensors if observation is not None else ():
            self._write_codes(step, tensor)
        self._writer.flush()

    def _write_codes(self, step: int, tensor: TensorObservation) -> None:
        codes = range(tensor.lo, tensor.lo + len(tensor.counts))
        self._writer.add_histogram_raw(
            f"codes/{tensor.name}",
            # half a code beyond both ends, so that all bars have one width
            min=codes[0] - 0.5,
            max=codes[-1] + 0.5,
            num=sum(tensor.counts),
            sum=sum(code * count for code, count in zip(codes, tensor.counts, strict=True)),
            sum_squares=sum(code**2 * count for code, count in zip(codes, tensor.counts, strict=True)),
            bucket_limits=[code + 0.5 for code in codes],
            bucket_counts=list(tensor.counts),
            global_step=step,
        )

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def scalars(record: EpochRecord, observation: Observation | None) -> dict[str, float]:
    """The scalars of one epoch by tag."""
    values = {f"loss/{role}/{term}": v for role, terms in record.losses.items() for term, v in terms.items()}
    if record.accuracy is not None:
        values[f"accuracy/{record.measured}"] = record.accuracy
    values |= {f"learning_rate/{role}": rate for role, rate in record.learning_rates.items()}
    values |= {f"step_movement_mean/{kind}": movement for kind, movement in record.step_movement.items()}
    values["time/epoch_seconds"] = record.seconds
    if record.images_per_second:
        values["time/images_per_second"] = record.images_per_second
    for tensor in observation.tensors if observation is not None else ():
        values[f"step/{tensor.name}"] = tensor.scale
        values[f"step_movement/{tensor.name}"] = tensor.movement
        values[f"clipped/{tensor.name}"] = tensor.clipped
        values[f"levels_used/{tensor.name}"] = tensor.levels_used
    return values


def _wait_for_a_later_name(folder: Path) -> None:
    """Wait until a new file sorts behind those of earlier processes: their names hold the second they were made in.

    Readers go through the files in that order, and purge what they have read so far.
    """
    while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.05)
