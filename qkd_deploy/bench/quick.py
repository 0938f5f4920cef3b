"""How fast a verified file is, in a second: for the last lines of ``verify``."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import onnx

from qkd_deploy.bench.report import FP32, INTEGER
from qkd_deploy.bench.timing import in_turns, single_runs
from qkd_deploy.bench.yardsticks import CHAIN, chain, overhead_of
from qkd_deploy.errors import UserError
from qkd_deploy.runtimes.limited_run import noise_for
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.runtime import RuntimeFault
from qkd_deploy.verification.overhead import SMALL_SECONDS, Overhead

_ONE, _MANY = "one operator", "many operators"
_RUNTIME = OnnxRuntime()


def quick_latencies(
    model: bytes, fp32: onnx.ModelProto | None = None, rounds: int = 9, *, sizes: tuple[int, ...] = ()
) -> tuple[dict[str, float], Overhead | None]:
    """Seconds per image of a model ("integer") and, where given, of the network in float ("fp32"), as medians.

    One thread, batch 1, in this process; with what operators cost, where an image takes less than a millisecond.

    Args:
        model: the content of its file.
        fp32: the network in float.
        rounds: samples of about 10 ms for each model.
        sizes: those that the model leaves open beside the batch.

    Raises:
        UserError: the file cannot be run.
    """
    models = {INTEGER: model} | ({} if fp32 is None else {FP32: fp32.SerializeToString()})
    try:
        runs = {name: _run(content, sizes) for name, content in models.items()}
        small = _seconds(runs[INTEGER]) < SMALL_SECONDS
        if small:
            runs |= {_ONE: _run(chain(1)), _MANY: _run(chain(1 + CHAIN))}
        taken = in_turns({name: single_runs(run) for name, run in runs.items()}, rounds)
        samples = {name: np.array([np.median(values[0]) for values in own]) for name, own in taken.items()}
        operators = len(_RUNTIME.optimized_graph(model).graph.node) if small else 0
    except RuntimeFault as error:
        raise UserError(f"{_RUNTIME.name} cannot run the model: {error.last_line}") from error
    overhead = Overhead(operators, overhead_of(operators, samples[_ONE], samples[_MANY])) if small else None
    return {name: float(np.median(samples[name])) for name in models}, overhead


def _run(content: bytes, sizes: tuple[int, ...] = ()) -> Callable[[], object]:
    """What runs a model once."""
    session = _RUNTIME.session(content)
    return partial(session.run, noise_for(session.inputs, 1, sizes))


def _seconds(run: Callable[[], object]) -> float:
    run()
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
