"""Evaluating a user's network leaves every module in its own mode: batch norms that the user froze stay frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qkd_deploy import UserError, calibrate, export_onnx, freeze, initialize, load_dataset, prepare, verify_onnx
from qkd_deploy.data import normalize
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.mixed_precision.sensitivity import sensitivity
from qkd_deploy.training.loop.evaluate import evaluate, integer_accuracy
from qkd_deploy.training.monitoring.quantizer_monitor import QuantizerMonitor

DIGITS = load_dataset("digits")
IMAGES = normalize(DIGITS.train.images[:64])


class Network(nn.Module):
    """Two convolutions with batch norms, a third batch norm behind a sum, dropout and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm_one, self.norm_two, self.norm_sum = (nn.BatchNorm2d(4) for _ in range(3))
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm_one(self.one(x)))
        x = torch.relu(self.norm_sum(x + self.norm_two(self.two(x))))
        logits: Tensor = self.fc(self.drop(x.mean((2, 3))))
        return logits


def network() -> Network:
    """In train mode, but for one batch norm of a convolution, the one behind the sum, and dropout."""
    torch.manual_seed(0)
    network = Network()
    for module in (network.norm_one, network.norm_sum, network.drop):
        module.eval()
    return network


def prepared_network() -> PreparedModel:
    prepared = prepare(network(), "w4a4", (IMAGES[:1],), input_quantization=(1 / 64, 128))
    initialize(prepared, IMAGES)
    return prepared


def modes(model: nn.Module) -> dict[str, bool]:
    return {path: module.training for path, module in model.named_modules()}


def verify(prepared: PreparedModel, folder: Path) -> None:
    export_onnx(prepared, folder / "net.onnx")
    assert verify_onnx(folder / "net.onnx", inputs=IMAGES.numpy(), frozen=freeze(prepared), prepared=prepared).passed


USES: dict[str, Callable[[PreparedModel, Path], object]] = {
    "initialize": lambda prepared, _: initialize(prepared, IMAGES),
    "calibrate": lambda prepared, _: calibrate(prepared, IMAGES.split(16)),
    "calibrate with batch norms": lambda prepared, _: calibrate(prepared, IMAGES.split(16), batch_norm=True),
    "sensitivity": lambda prepared, _: sensitivity(prepared, IMAGES.split(32)),
    "freeze": lambda prepared, _: freeze(prepared),
    "export": lambda prepared, folder: export_onnx(prepared, folder / "net.onnx"),
    "verify": verify,
    "accuracy": lambda prepared, _: integer_accuracy(prepared, DIGITS.test, limit=16),
    "float accuracy": lambda prepared, _: evaluate(prepared, DIGITS.test, judge=prepared, limit=16),
    "observation": lambda prepared, _: QuantizerMonitor(prepared).observe(IMAGES),
}


@pytest.mark.parametrize("use", USES)
def test_frozen_batch_norms_stay_frozen(use: str, tmp_path: Path) -> None:
    prepared = prepared_network()
    before = modes(prepared)
    assert not before["network.norm_one"] and before["network.norm_two"]
    USES[use](prepared, tmp_path)
    assert modes(prepared) == before


def test_a_prepared_network_has_the_modes_of_the_network() -> None:
    own = network()
    before = modes(own)
    prepared = prepare(own, "w4a4", (IMAGES[:1],))
    assert modes(own) == before
    assert {path: mode for path, mode in modes(prepared.network).items() if path in before} == before
    assert prepared.training and all(module.training for module in prepared.activations.values())
    assert not any(modes(prepare(own.eval(), "w4a4", (IMAGES[:1],))).values())


def test_sensitivity_keeps_the_modes_of_a_float_network() -> None:
    own = network()
    before = modes(own)
    sensitivity(own, IMAGES.split(32))
    assert modes(own) == before


def test_training_moves_the_statistics_of_batch_norms_that_are_not_frozen() -> None:
    prepared = prepared_network()
    before = {name: buffer.clone() for name, buffer in prepared.network.named_buffers()}
    prepared(IMAGES)
    moved = {name for name, buffer in prepared.network.named_buffers() if not torch.equal(buffer, before[name])}
    assert {name.rpartition(".")[0] for name in moved} == {"norm_two"}


FAILURES: dict[str, Callable[[PreparedModel, Tensor], object]] = {
    "initialize": initialize,
    "calibrate": lambda prepared, batch: calibrate(prepared, [IMAGES, batch]),
    "calibrate at once": calibrate,
}


@pytest.mark.parametrize("use", FAILURES)
def test_modes_are_as_before_where_a_batch_is_not_finite(use: str) -> None:
    prepared = prepared_network()
    before = modes(prepared)
    with pytest.raises(UserError, match="not finite"):
        FAILURES[use](prepared, torch.full_like(IMAGES, torch.nan))
    assert modes(prepared) == before


@pytest.mark.parametrize("use", sorted({*USES} - {"freeze", "export", "verify"}))
def test_modes_are_as_before_where_the_network_raises(use: str, tmp_path: Path) -> None:
    prepared = prepared_network()
    before = modes(prepared)
    prepared.network.fc.weight.data = torch.zeros(10, 3)  # the layer in front of it has four channels
    with pytest.raises(RuntimeError):
        USES[use](prepared, tmp_path)
    assert modes(prepared) == before


class Merging(nn.Linear):
    """Like an adapter: in evaluation mode its two parts are one."""

    merged = False

    def train(self, mode: bool = True) -> Merging:
        self.merged = not mode
        super().train(mode)
        return self


def test_a_train_method_of_the_users_own_is_called_both_ways() -> None:
    network = nn.Sequential(Merging(2, 2), nn.BatchNorm1d(2).eval())
    with evaluating(network, None):
        assert network[0].merged and not network.training
    assert not network[0].merged
    assert modes(network) == {"": True, "0": True, "1": False}


def test_evaluating_an_empty_network_and_one_that_is_evaluated_already() -> None:
    with evaluating(nn.Sequential(), nn.Linear(1, 1).eval()) as nothing:
        assert nothing is None
