"""The network of a prepared model in float, in the form in which a float model would be exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from qkd_deploy import create_model, export_onnx, initialize, prepare
from qkd_deploy.data import normalize
from qkd_deploy.export.float_model import build_float_model
from qkd_deploy.pixels.normalization import PRESETS

PIXELS = {"mean": 128.0, "std": 64.0}


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x})
    return np.asarray(output)


def stem(kernel: int, stride: int, padding: int) -> nn.Module:
    """A convolution over three channels, which export rewrites for the integer kernel."""
    layers = nn.Conv2d(3, 16, kernel, stride, padding), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16, 5))


def float_form(network: nn.Module, x: torch.Tensor, bits: str = "w8a8", **options: Any) -> onnx.ModelProto:
    prepared = prepare(network, bits, (x,), **options)
    initialize(prepared, x)
    model = build_float_model(prepared)
    onnx.checker.check_model(model, full_check=True)
    return model


def operators_of(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w2a8"])
def test_it_computes_what_the_float_network_with_rounded_weights_computes(bits: str) -> None:
    torch.manual_seed(0)
    network = create_model("resnet8", 10)
    x = torch.round(torch.rand(6, 3, 16, 16) * 255 - 128) / 64
    network(x)  # batch statistics
    prepared = prepare(network.eval(), bits, (x,), input_quantization=(1 / 64, 128))
    initialize(prepared, x)
    before = {name: value.clone() for name, value in prepared.state_dict().items()}
    model = build_float_model(prepared)
    assert all(torch.equal(before[name], value) for name, value in prepared.state_dict().items())
    assert set(operators_of(model)) == {"Conv", "Relu", "Add", "GlobalAveragePool", "Reshape", "Gemm"}
    # the float network, with the weights that the integer codes stand for
    for node in prepared.layers():
        layer = prepared.network.get_submodule(str(node.target))
        assert isinstance(layer.weight, nn.Parameter)
        layer.weight.data = prepared.weight(node)(layer.weight).detach()
    with torch.no_grad():
        expected = prepared.network(x).numpy()
    assert np.allclose(run(model, x.numpy()), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (7, 2, 3), (3, 2, 1), (4, 2, 1), (5, 2, 2), (2, 2, 0)]
)
def test_convolutions_that_are_rewritten_for_integers_have_their_plain_form(
    tmp_path: Path, kernel: int, stride: int, padding: int
) -> None:
    torch.manual_seed(0)
    network = stem(kernel, stride, padding).eval()
    x = torch.randn(4, 3, 12, 12)
    prepared = prepare(network, "w8a8", (x,))
    initialize(prepared, x)
    export_onnx(prepared, tmp_path / "m.onnx")
    rewritten = {tensor.name: tensor for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer}["0.weight"]
    assert list(rewritten.dims) != [16, 3, kernel, kernel]
    model = build_float_model(prepared)
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == conv.input[1])
    assert list(weight.dims) == [16, 3, kernel, kernel]
    assert not {"Pad", "Transpose"} & set(operators_of(model))
    with torch.no_grad():
        expected = network(x).numpy()
    assert np.allclose(run(model, x.numpy()), expected, atol=0.02 * np.abs(expected).max())


class Shuffled(nn.Module):
    """A channel shuffle by reshaping in front of one convolution, and a reshape in front of another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv1d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x.reshape(-1, 2, 4, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6).transpose(2, 3).flatten(2).transpose(1, 2)
        x = self.second(x.reshape(-1, 6, 6, 8).transpose(1, 3)).flatten(2)
        return self.third(x)


def test_reshapes_of_the_network_stay() -> None:
    torch.manual_seed(0)
    network, x = Shuffled().eval(), torch.randn(4, 4, 8, 8)
    with torch.no_grad():
        expected = network(x).numpy()
    assert np.allclose(run(float_form(network, x), x.numpy()), expected, atol=0.03)


def test_a_quantizer_of_signed_values_is_no_relu() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 3)).eval()
    x = torch.randn(4, 4, 8, 8)
    model = float_form(network, x)
    assert operators_of(model) == ["Conv", "Conv"]
    with torch.no_grad():
        expected = network(x).numpy()
    assert np.allclose(run(model, x.numpy()), expected, atol=0.02 * np.abs(expected).max())


class _Activations(nn.Module):
    """Functions that export writes as tables, as products, and as codes read on another grid."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3)
        self.functions = nn.ModuleList([nn.GELU(), nn.Hardswish(), nn.SiLU(), nn.Tanh(), nn.LeakyReLU(0.1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for function in self.functions:
            x = function(x) + x
        x = torch.nn.functional.pad(x * 0.5, (1, 1, 1, 1))
        return self.second(x).sigmoid()


def test_activation_functions_are_operators() -> None:
    torch.manual_seed(1)
    network, x = _Activations().eval(), torch.round(torch.rand(2, 3, 10, 10) * 255 - 128) / 64
    model = float_form(network, x, input_quantization=(1 / 64, 128))
    operators = set(operators_of(model))
    assert {"Gelu", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu", "Pad", "Mul"} <= operators
    assert not {"GatherElements", "Cast", "QuantizeLinear"} & operators
    with torch.no_grad():
        expected = network(x).numpy()
    assert np.abs(run(model, x.numpy()) - expected).max() < 0.04 * np.ptp(expected)


def test_a_softmax_that_stays_in_float_is_one_here_too() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), _Shares(), nn.ReLU6(), nn.Conv2d(8, 4, 1)).eval()
    assert "Softmax" in operators_of(float_form(network, torch.rand(1, 3, 6, 6)))


class _Shares(nn.Module):
    """A softmax that stays in float, as it is over the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, 0)


class _Rows(nn.Module):
    """A LayerNorm whose rows of codes are centred, and slopes per channel, which take the negative part."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 8, 3), nn.Conv1d(8, 4, 1)
        self.slopes, self.norm = nn.PReLU(8), nn.LayerNorm(300)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.slopes(self.first(x) + 1)
        return self.second(self.norm(torch.relu(x)) + x)


def test_rows_and_negative_parts_are_what_the_network_computes() -> None:
    torch.manual_seed(0)
    network, x = _Rows().eval(), torch.randn(2, 3, 302)
    got = run(float_form(network, x), x.numpy())
    expected = network(x).detach().numpy()
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("normalization", ["imagenet", "half"])
def test_images_need_neither_a_border_nor_another_normalization(normalization: str) -> None:
    """They would take time that a network in float does not need."""
    torch.manual_seed(0)
    network, x = stem(3, 2, 1).eval(), torch.randn(4, 3, 16, 16)
    model = float_form(network, x, normalization=normalization)
    written = {node.op_type for node in model.graph.node}
    assert "Conv" in written and not {"Sub", "Div", "Slice", "Concat"} & written
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (4, 3, 16, 16), dtype=np.uint8))
    wanted = network(normalize(images, PRESETS[normalization])).detach().numpy()
    found = run(model, normalize(images).numpy())
    np.testing.assert_allclose(found, wanted, atol=0.1 * float(np.abs(wanted).max()))
