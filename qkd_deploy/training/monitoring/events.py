"""The curves of a run for TensorBoard; docs/monitoring.md lists the tags.

The events are TensorBoard's own messages and records, but not its ``SummaryWriter``: that one names files by the clock,
although readers rely on their order to purge what a resumed run repeats, and its thread prints a traceback where a disk
is full.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from qkd_deploy.training.monitoring.metrics import EpochRecord
from qkd_deploy.training.monitoring.observation import Observation, TensorObservation

_NAME = "events.out.tfevents."


class EventFiles:
    """Writes event files, one for each process that has worked on the run, numbered in their order.

    Global step n is line n of ``metrics.jsonl``.

    Args:
        folder: of the event files; it need not exist.
        first_step: the step that comes next. What an earlier process wrote from there on is purged by readers.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        numbers = [int(path.name.removeprefix(_NAME)) for path in folder.glob(f"{_NAME}{'[0-9]' * 10}")]
        self._file = (folder / f"{_NAME}{max(numbers, default=0) + 1:010d}").open("xb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, record: EpochRecord, observation: Observation | None) -> None:
        """Write one epoch, as one event, so that a killed process leaves all of it or nothing.

        Raises:
            OSError: the file cannot be written.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=v) for tag, v in scalars(record, observation).items()]
        for tensor in observation.tensors if observation is not None else ():
            values.append(Summary.Value(tag=f"codes/{tensor.name}", histo=_histogram(tensor)))
        self._write(step=step, summary=Summary(value=values))
        os.fsync(self._file.fileno())

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def scalars(record: EpochRecord, observation: Observation | None) -> dict[str, float]:
    """The scalars of one epoch by tag."""
    values = {f"loss/{role}/{term}": v for role, terms in record.losses.items() for term, v in terms.items()}
    if record.accuracy is not None:
        values[f"{record.measure}/{record.measured}"] = record.accuracy
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


def _histogram(tensor: TensorObservation) -> Any:
    """One bucket for each code; it reaches half a code beyond both ends, so that all bars have one width."""
    from tensorboard.compat.proto.summary_pb2 import HistogramProto

    codes = range(tensor.lo, tensor.lo + len(tensor.counts))
    return HistogramProto(
        min=codes[0] - 0.5,
        max=codes[-1] + 0.5,
        num=sum(tensor.counts),
        sum=sum(code * count for code, count in zip(codes, tensor.counts, strict=True)),
        sum_squares=sum(code**2 * count for code, count in zip(codes, tensor.counts, strict=True)),
        bucket_limit=[code + 0.5 for code in codes],
        bucket=tensor.counts,
    )
