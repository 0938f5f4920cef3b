"""Predicted saturation: of single layers, against ONNX Runtime where the CPU saturates, and in the report."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from deployment import SATURATES, settle
from graph_builder import GraphBuilder
from rich.console import Console
from scales import learned, multiply
from torch import Tensor, nn

from qkd_deploy import export_onnx, freeze, initialize, prepare, verify_onnx
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.verification.overflow.saturation import Saturation, find_saturation
from qkd_deploy.verification.reference.model import ReferenceModel
from qkd_deploy.verification.report import VerificationReport
from qkd_deploy.verification.runtime import CodesModel

AVX2 = {"architecture": "x86_64", "avx2": True, "avx512": False, "vnni": False}
needs_saturation = pytest.mark.skipif(not SATURATES, reason="this CPU does not add 8-bit products in 16 bits")


def layer(weights: np.ndarray, hi: int = 255, group: int = 1) -> onnx.ModelProto:
    """One convolution of 1/256 scale between quantizers; its input codes reach ``hi``."""
    graph = GraphBuilder()
    channels = weights.shape[1] * group
    x = graph.quantize(graph.input("x", ["batch", channels, 6, 6]), "input", 1.0, 0, hi=hi)
    scale, bias = np.full(len(weights), 1 / 256), np.zeros(len(weights), np.int64)
    conv = graph.layer("Conv", x, "conv", weights, scale, input_scale=1.0, bias=bias, group=group)
    graph.output(graph.quantize(conv, "conv", 1.0, 0), rank=4)
    return graph.build()


def predicted(model: onnx.ModelProto, cpu: dict[str, str | bool] | None = None) -> Saturation:
    return find_saturation(model, ReferenceModel(model), read_metadata(model), cpu or AVX2)


def saturates_here(model: onnx.ModelProto, hi: int, *, precise: bool = False) -> bool:
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    feeds = {"x": np.full((1, channels, 6, 6), hi, np.float32)}
    _, codes = CodesModel(model, precise=precise).run(feeds)
    return any(not np.array_equal(ReferenceModel(model).run(feeds).codes[name], array) for name, array in codes.items())


def two_weights(shape: tuple[int, ...], first: int, second: int, size: int = 127) -> np.ndarray:
    """Zeros but for two products of every output, counted in the order channel, height, width."""
    weights = np.zeros(shape, np.int64)
    weights.reshape(len(weights), -1)[:, [first, second]] = size
    return weights


CASES = {
    "neighbouring channels": (two_weights((16, 8, 1, 1), 2, 3), 255, 1, True),
    "channels of two pairs": (two_weights((16, 8, 1, 1), 1, 2), 255, 1, False),
    "same position, neighbouring channels": (two_weights((16, 4, 2, 2), 8, 12), 255, 1, True),
    "neighbouring positions of one channel": (two_weights((16, 4, 2, 2), 8, 9), 255, 1, False),
    "odd channels pair across positions": (two_weights((16, 3, 1, 2), 4, 1), 255, 1, True),
    "groups": (two_weights((16, 4, 2, 1), 0, 2), 255, 4, True),
    "depthwise": (two_weights((16, 1, 3, 3), 0, 1), 255, 16, False),
    "narrow weights": (two_weights((16, 8, 1, 1), 2, 3, size=64), 255, 1, False),
    "the smallest that saturates": (two_weights((16, 8, 1, 1), 2, 3, size=65), 255, 1, True),
    "few codes": (two_weights((16, 8, 1, 1), 2, 3), 15, 1, False),
    "just enough codes": (two_weights((16, 8, 1, 1), 2, 3), 129, 1, False),
    "one code too many": (two_weights((16, 8, 1, 1), 2, 3), 130, 1, True),
}


@pytest.mark.parametrize("case", CASES)
def test_single_layers(case: str) -> None:
    weights, hi, group, expected = CASES[case]
    model = layer(weights, hi, group)
    found = predicted(model)
    assert [entry.module for entry in found.layers] == (["conv"] if expected else [])
    if expected:
        assert (found.layers[0].largest_weight, found.layers[0].pair) == (weights.max(), 2 * weights.max() * hi)
    assert bool(found.prediction) == expected
    if SATURATES:
        assert saturates_here(model, hi) == expected
    assert not saturates_here(model, hi, precise=True)


def test_negative_sums_saturate_too() -> None:
    found = predicted(layer(two_weights((16, 8, 1, 1), 2, 3, size=-127)))
    assert found.layers[0].pair == -2 * 127 * 255


@pytest.mark.parametrize(
    ("cpu", "here", "words"),
    [
        (AVX2, True, "AVX2 without VNNI"),
        ({**AVX2, "avx512": True}, True, "AVX-512 without VNNI"),
        ({**AVX2, "avx512": True, "vnni": True}, False, "with VNNI"),
        ({**AVX2, "avx2": False}, False, "without AVX2"),
        ({"architecture": "x86_64"}, None, "x86_64"),
        ({"architecture": "aarch64"}, False, "aarch64"),
    ],
)
def test_which_cpus_saturate(cpu: dict[str, str | bool], here: bool | None, words: str) -> None:
    found = predicted(layer(CASES["neighbouring channels"][0]), cpu)
    assert found.here is here
    assert found.prediction == (
        f"8-bit weights of conv reach ±127: on x86 CPUs without VNNI sums may saturate (this CPU: {words}); prepare "
        "with --weight-range safe (weight_range='safe' in Python), or set the runtime's session.x64quantprecision=1"
    )


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.stem(x))).mean((2, 3)))  # type: ignore[no-any-return]


PIXELS = torch.randint(0, 256, (8, 3, 8, 8), generator=torch.Generator().manual_seed(0))
IMAGES = (PIXELS.float() - 128) / 64


def prepared(weight_range: str) -> PreparedModel:
    model = prepare(settle(Net()), "w8a8", (IMAGES,), input_quantization=(1 / 64, 128), weight_range=weight_range)
    initialize(model, IMAGES)
    for quantizer in learned(model.weights):
        multiply(quantizer, 0.5)  # many weights at the ends of the range
    return model


def verified(folder: Path, weight_range: str) -> VerificationReport:
    model = prepared(weight_range)
    export_onnx(model, folder / "model.onnx")
    return verify_onnx(folder / "model.onnx", inputs=IMAGES.numpy(), frozen=freeze(model))


def printed(report: VerificationReport) -> str:
    console = Console(file=io.StringIO(), width=100)
    report.render(console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_default_export_is_exact_and_nothing_is_predicted(tmp_path: Path) -> None:
    report = verified(tmp_path, "narrow")
    assert report.passed, report.verdict
    assert report.saturation is not None and report.saturation.layers == ()
    assert "aturat" not in printed(report)


def test_only_a_file_alone_is_told_of_the_comparison_with_fp32() -> None:
    """A checkpoint whose network has no form in float has been given already."""
    latency = {"integer": 0.001}
    alone, given = (
        VerificationReport("m.onnx", latency_seconds=latency, cpu={"architecture": "x86_64"}),
        VerificationReport("m.onnx", "m.pt", latency_seconds=latency, cpu={"architecture": "x86_64"}),
    )
    assert "1.00 ms an image (one thread; --checkpoint compares with fp32)" in " ".join(printed(alone).split())
    assert "1.00 ms an image (one thread)" in " ".join(printed(given).split())


def test_the_full_range_is_named_and_is_the_cause_where_codes_differ(tmp_path: Path) -> None:
    report = verified(tmp_path, "full")
    assert report.saturation is not None
    assert [entry.module for entry in report.saturation.layers] == ["stem", "head"]
    text = printed(report)
    assert "Saturation: 8-bit weights of stem, head reach ±127: on x86 CPUs without VNNI sums may saturate" in text
    table = json.loads(report.to_json())["saturation"]
    assert table["layers"][0]["module"] == "stem" and table["here"] is report.saturation.here
    assert report.passed == (not SATURATES), report.verdict
    if SATURATES:
        assert "that is why, for with session.x64quantprecision=1 all codes are equal" in report.verdict
        assert table["explains"] is True


def test_a_safe_range_or_precise_sums_are_the_way_out(tmp_path: Path) -> None:
    full = verified(tmp_path, "full")
    assert full.saturation is not None and "or set the runtime's session.x64quantprecision=1" in printed(full)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": IMAGES.numpy()})
    assert np.array_equal(output, freeze(prepared("full"))(IMAGES).numpy())
    safe = verified(tmp_path, "safe")
    assert safe.passed and safe.saturation is not None and safe.saturation.prediction == ""


@needs_saturation
def test_saturation_is_not_blamed_for_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen model of other codes differs with precise sums as well."""
    original = CodesModel.run

    def one_code_off(
        self: CodesModel, feeds: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        outputs, codes = original(self, feeds)
        last = list(codes)[-1]
        return outputs, {**codes, last: codes[last] ^ 1}

    monkeypatch.setattr(CodesModel, "run", one_code_off)
    report = verified(tmp_path, "full")
    assert "saturation is not the only cause" in report.verdict
