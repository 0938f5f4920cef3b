"""What ``bench`` tells of a file, in the runtime that it is for; nothing here depends on how fast a machine is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from deployment import deploy, noise
from fake_target import BEHAVIOUR, register
from torch import nn

from qkd_deploy.bench.benchmark import bench
from qkd_deploy.bench.macs import macs_of
from qkd_deploy.bench.plot import plot_bench
from qkd_deploy.bench.report import BenchReport
from qkd_deploy.cli.bench import command
from qkd_deploy.errors import UserError
from qkd_deploy.export.float_model import build_float_model
from qkd_deploy.export.onnx_export import export_onnx
from qkd_deploy.export.targets.file import export_for
from qkd_deploy.export.targets.registry import target_named
from qkd_deploy.runtimes.ort import OnnxRuntime

TARGETS = ("ort-mobile", "fake")
MACS = 8 * 3 * 9 * 64 + 16 * 8 * 9 * 16 + 16 * 5
"""Of ``small``: two convolutions and a layer, for 16x16 images."""


def small() -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def path(site: Path) -> str:
    return register(site)


@pytest.fixture(autouse=True)
def _fake_is_installed(site: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(str(site))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, site: Path, path: str) -> tuple[Path, onnx.ModelProto]:
    """A folder with a network for every target, and the same network in float."""
    folder = tmp_path_factory.mktemp("files")
    deployed = deploy(small().eval(), (noise(8, 3, 16, 16),), normalization="centered")
    export_onnx(deployed.prepared, folder / "m.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.syspath_prepend(str(site))
        for name in TARGETS:
            target = target_named(name)
            export_for(deployed.prepared, folder / f"m{target.suffix}", target)
    return folder, build_float_model(deployed.prepared)


@pytest.fixture(scope="module")
def report(files: tuple[Path, onnx.ModelProto]) -> BenchReport:
    """Of the ONNX file, against float."""
    folder, rival = files
    return bench(folder / "m.onnx", against="fp32", rival=rival, rounds=2)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [*map(str, arguments)], standalone_mode=False)


def test_a_report_holds_every_figure(report: BenchReport) -> None:
    assert set(report.models) == {"integer", "fp32"} and report.macs == MACS
    for found in report.models.values():
        p50, p90, p99 = found.percentiles.values()
        assert 0 < p50 <= p90 <= p99 and [*found.percentiles] == ["50", "90", "99"]
        assert found.load_seconds > 0 and found.throughput == pytest.approx(1 / found.latency)
        assert found.runtime == f"ONNX Runtime {OnnxRuntime.version}"
    own = report.models["integer"]
    assert own.operations_per_second is not None and own.operations_per_second > 0
    assert own.peak_share is not None and own.peak_share > 0 and report.int8_peak > 0
    assert len(report.cpus) in (0, 1)


def test_ratios_come_first(report: BenchReport) -> None:
    first, second, third = replace(report, waited=0.0).sentences()
    assert first.startswith("against fp32: ") and "x the speed" in first and "x the time to load" in first
    assert "of this machine's int8 kernels on 1 thread(s)" in second
    assert "ms is overhead of" in third
    assert report.waited is not None and 0 <= report.waited < 1
    said = [*replace(report, waited=0.42).sentences()][1]
    assert said.startswith("other processes had the CPU for 42 % of the time: the ratios are those of the time in")


def test_the_time_of_every_node_belongs_to_a_module(report: BenchReport, files: tuple[Path, onnx.ModelProto]) -> None:
    layers = {layer.module: layer for layer in report.layers}
    assert {"0", "3", "7"} < layers.keys()
    assert layers["0"].integer and "QLinearConv" in layers["0"].kernels and "QGemm" in layers["7"].kernels
    assert sum(layer.share for layer in report.layers) == pytest.approx(1)
    assert [layer.seconds for layer in report.layers] == sorted((one.seconds for one in report.layers), reverse=True)
    nodes = OnnxRuntime().optimized_graph((files[0] / "m.onnx").read_bytes()).graph.node
    assert report.overhead is not None and report.overhead.operators == len(nodes)


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_for_a_target_runs_in_its_runtime(target: str, files: tuple[Path, onnx.ModelProto]) -> None:
    (folder, rival), own = files, target_named(target)
    found = bench(folder / f"m{own.suffix}", against="fp32", rival=rival, rounds=1, batch=2)
    measured = found.models["integer"]
    assert measured.runtime.startswith(own.title) and measured.file_bytes == (folder / f"m{own.suffix}").stat().st_size
    assert found.macs == MACS and measured.peak_share is not None  # counted in the network in float
    assert found.models["fp32"].runtime.startswith(own.title if target == "ort-mobile" else "ONNX Runtime 1")
    assert (" in ONNX Runtime 1" in next(found.sentences())) == (target == "fake")
    modules = {layer.module: layer for layer in found.layers}
    assert modules.keys() >= {"0", "3", "7"} if target == "ort-mobile" else not modules
    assert all(modules[name].integer for name in ("0", "3", "7") if name in modules)
    assert (found.overhead is None) == (target == "fake")


def test_an_onnx_file_runs_in_another_runtime_against_a_file_for_a_third(files: tuple[Path, onnx.ModelProto]) -> None:
    folder, _ = files
    found = bench(folder / "m.onnx", runtime="ort-mobile", against=str(folder / "m.fake"), rounds=1)
    assert [model.runtime.split()[0] for model in found.models.values()] == ["ONNX", "Fake"]
    assert ".ort" in found.models["integer"].runtime and found.macs == MACS


def test_a_runtime_that_aborts_is_named(files: tuple[Path, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch) -> None:
    file = files[0] / "m.fake"
    monkeypatch.setenv(BEHAVIOUR, "abort")
    with pytest.raises(UserError, match=r"^Fake Runtime cannot run .*m.fake: Fake Runtime aborts .*; try another"):
        bench(file, rounds=1)


def test_the_ways_out_of_the_command_work(files: tuple[Path, onnx.ModelProto], tmp_path: Path) -> None:
    folder, _ = files
    few = ("--rounds", 1)
    wrong: dict[str, tuple[object, ...]] = {
        "m.fake runs in Fake Runtime alone; leave --runtime out, or give an .onnx file": ("m.fake", "--runtime", "ort"),
        "Fake Runtime takes no ONNX files; measure the .fake file that `qkd-deploy export --target fake` writes": (
            *("m.onnx", "--runtime", "fake"),
        ),
        "names no kind of picture; let it end in .png, .svg, .pdf": ("m.onnx", "--plot", tmp_path / "b.txt"),
    }
    for said, (name, *options) in wrong.items():
        done = run(folder / str(name), *options, *few)
        assert isinstance(done.exception, UserError) and said in str(done.exception)
    done = run(folder / "m.fake", *few, "--plot", tmp_path / "b.svg")
    assert done.exception is None and (tmp_path / "b.svg").read_text().count("<svg") == 1
    assert "Fake Runtime 0.1" in done.output


def test_a_report_is_drawn(report: BenchReport, tmp_path: Path) -> None:
    plot_bench(report, tmp_path / "new" / "b.png")
    assert (tmp_path / "new" / "b.png").read_bytes().startswith(b"\x89PNG")


def test_multiplications_are_counted_in_products_and_turned_convolutions() -> None:
    value, float32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = [
        onnx.helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]),
        onnx.helper.make_node("Reshape", ["y", "shape"], ["r"]),
        onnx.helper.make_node("MatMul", ["r", "r2"], ["z"]),
    ]
    constants = [
        onnx.helper.make_tensor("w", float32, [3, 5, 2, 2], [0.0] * 60),
        onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [3], [-1, 5, 64]),
        onnx.helper.make_tensor("r2", float32, [64, 7], [0.0] * 448),
    ]
    ends = [[value("x", float32, ["batch", 3, 4, 4])], [value("z", float32, ["batch", 5, 7])]]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", *ends, constants))
    assert macs_of(model) == 3 * 16 * 5 * 4 + 5 * 7 * 64
