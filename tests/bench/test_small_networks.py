"""Networks that are too small to gain from integers are told as that, and not as a failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qkd_deploy.bench.pinning import cpus_for
from qkd_deploy.bench.quick import quick_latencies
from qkd_deploy.bench.report import BenchReport, Measurement, Ratio
from qkd_deploy.bench.yardsticks import CHAIN, chain, overhead_of
from qkd_deploy.verification.overhead import Overhead
from qkd_deploy.verification.report import VerificationReport


def report_of(integer: float, fp32: float, overhead: float) -> BenchReport:
    """Of made-up seconds."""
    models = {
        name: Measurement("r", own, (own, own), dict.fromkeys(("50", "90", "99"), own), 1 / own, 1.0, None, 10)
        for name, own in (("integer", integer), ("fp32", fp32))
    }
    ratio = Ratio(fp32 / integer, (1.0, 1.0), None, 2.0, 1.0)
    return BenchReport(
        "m.onnx", 1, 1, 1, "1", models, {"fp32": ratio}, (), None, 1e12, 1000, Overhead(22, overhead), ()
    )


@pytest.mark.parametrize(
    ("integer", "fp32", "overhead", "small"),
    [
        (1e-4, 7e-5, 8e-5, True),  # slower, by what operators cost
        (1e-4, 7e-5, 1e-5, False),  # slower, for another reason
        (1e-4, 2e-4, 8e-5, False),  # it gains all the same
    ],
)
def test_small_networks_are_told_by_their_overhead(integer: float, fp32: float, overhead: float, small: bool) -> None:
    report = report_of(integer, fp32, overhead)
    assert report.too_small == report.as_dict()["too_small"] == small
    last = [*report.sentences()][-1]
    assert last.startswith(f"0.100 ms an image, of which {overhead * 1e3:.3f} ms is overhead of 22 operators")
    assert last.endswith(": the network is too small for integers to gain") == small
    assert [*replace(report, batch=4).sentences()][-1].startswith("0.100 ms a run, of which")
    latencies = {"integer": integer, "fp32": fp32}
    verified = VerificationReport("m.onnx", "m.pt", latency_seconds=latencies, overhead=Overhead(22, overhead))
    words = verified._speed()
    assert ("too small for integers to gain" in words) == small == ("the speed of fp32" not in words)


def test_overhead_is_that_of_a_chain() -> None:
    one, many = np.full(3, 4e-6), np.full(3, 4e-6 + CHAIN * 1e-6)
    assert overhead_of(1, one, many) == pytest.approx(4e-6)
    assert overhead_of(21, one, many) == pytest.approx(24e-6)


def test_operators_are_counted_where_an_image_takes_less_than_a_millisecond() -> None:
    latencies, overhead = quick_latencies(chain(4), rounds=1)
    assert latencies["integer"] > 0 and overhead is not None
    assert overhead.operators >= 4 and overhead.seconds > 0


def test_every_thread_has_a_core_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert cpus_for(2, tmp_path) == (3, 2) and cpus_for(3, tmp_path) == (3, 2, 1)
    assert cpus_for(5, tmp_path) == ()  # nobody is pinned where threads share CPUs
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    assert cpus_for(1, tmp_path) == ()
