"""The time that ONNX Runtime takes for each node of a file, by its own profiler."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from qkd_deploy.runtimes.ort import OrtSession, session_options

_KERNEL = "_kernel_time"

Profiled = tuple[Callable[[], object], Callable[[], str]]
"""What runs a session once, and what ends its profile and names the file."""


@dataclass(frozen=True)
class NodeTime:
    """One node of the graph that the runtime built.

    Attributes:
        name: of the node in that graph, as ``optimized_graph`` gives it.
        op: its operator.
        seconds: mean over the middle half of all runs.
    """

    name: str
    op: str
    seconds: float


def node_times(
    model: bytes, feeds: Mapping[str, np.ndarray], *, seconds: float = 1.0, most: int = 200, threads: int = 1
) -> tuple[NodeTime, ...]:
    """Run a model for a while, and list its nodes in the order in which they run.

    The profiler counts whole microseconds and takes time itself, so that the sum is more than a run takes without it.

    Args:
        model: the content of a file.
        feeds: one batch of inputs by name.
        seconds: after which no further run begins; there is one at least, behind one that is not counted.
        most: runs at most.
        threads: that it computes with.

    Raises:
        RuntimeFault: the model cannot be loaded, or the inputs do not fit it.
    """

    def load(options: onnxruntime.SessionOptions) -> Profiled:
        session = OrtSession(model, options)
        return partial(session.run, feeds), session.end_profiling

    return profiled(session_options(threads), load, seconds=seconds, most=most)


def profiled(
    options: onnxruntime.SessionOptions,
    load: Callable[[onnxruntime.SessionOptions], Profiled],
    *,
    seconds: float = 1.0,
    most: int = 200,
) -> tuple[NodeTime, ...]:
    """Time the nodes of what ``load`` makes with ``options``: a function that runs it once, and its ``end_profiling``.

    Args:
        options: of the session.
        load: makes it.
        seconds: as for ``node_times``.
        most: as for ``node_times``.

    Raises:
        RuntimeFault: as ``load`` and its result.
    """
    with tempfile.TemporaryDirectory(prefix="qkd-deploy-") as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        run, end_profiling = load(options)
        runs, end = 0, 0.0
        while runs == 0 or (runs <= most and time.perf_counter() < end):
            run()
            end = end or time.perf_counter() + seconds
            runs += 1
        events = json.loads(Path(end_profiling()).read_text(encoding="utf-8"))
    return _means(events)


def _means(events: list[dict[str, Any]]) -> tuple[NodeTime, ...]:
    durations: dict[tuple[str, str], list[float]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            key = name.removesuffix(_KERNEL), str(event["args"].get("op_name", ""))
            durations.setdefault(key, []).append(event["dur"] / 1e6)
    return tuple(NodeTime(name, op, _middle(times)) for (name, op), times in durations.items())


def _middle(times: list[float]) -> float:
    """The mean of the middle half: finer than a median of whole microseconds, and deaf to interruptions."""
    ordered = np.sort(times[1:] or times)  # the first run fills caches and allocates memory
    quarter = len(ordered) // 4
    return float(ordered[quarter : len(ordered) - quarter].mean())
