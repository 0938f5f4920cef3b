"""The suite's own instruments: they find a changed constant, a tensor that no input moves, and what stays in float."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from architectures.parts import Classifier, conv_bn
from run_conformance import with_speed
from speed import speed_over_fp32
from structured_data import samples
from torch import Tensor, nn
from trial import Trial, compare, deploy, float_kernels, floats, integer_macs, liveness

SHAPE = (3, 12, 12)


class Normed(nn.Module):
    """A layer norm in float between two convolutions; the channels behind ``dead`` do not depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.dead = conv_bn(3, 8), nn.LayerNorm((8, 12, 12)), nn.Conv2d(8, 8, 1)
        nn.init.zeros_(self.dead.weight)
        self.dead.weight.requires_grad_(False)
        self.head = Classifier(nn.Conv2d(8, 8, 3), 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(self.norm(x)) + self.head(torch.relu(self.dead(x)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def plain() -> Trial:
    return deploy(lambda: Classifier(nn.Sequential(conv_bn(3, 8), conv_bn(8, 8, 3, 2)), 8), SHAPE, "w4a4")


def test_codes_of_an_integer_network_are_equal(plain: Trial) -> None:
    found = compare(plain, SHAPE)
    assert found.differing == found.behind_float == 0
    assert found.compared > 2 * 3 * 8 * 12 * 12
    assert floats(plain.prepared) == {} and not float_kernels(plain)
    assert integer_macs(plain, SHAPE) == 1
    share, dead = liveness(plain, SHAPE)
    assert share > 0.25 and dead == []


def test_a_changed_constant_is_found(plain: Trial) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(plain.model)
    (bias,) = (t for t in changed.graph.initializer if t.name == "features.1.0.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.int32(500), bias.name))
    found = compare(dataclasses.replace(plain, model=changed), SHAPE)
    assert found.differing > 0
    assert found.first == "features.1.0"


def test_operations_in_float_and_dead_tensors_are_named() -> None:
    trial = deploy(Normed, SHAPE, "w8a8")
    assert floats(trial.prepared).keys() == {"layer_norm"}
    assert float_kernels(trial)["LayerNormalization"] == 1
    found = compare(trial, SHAPE)
    assert found.differing == 0 and found.behind_float > 0
    assert "dead" in liveness(trial, SHAPE)[1]


def test_samples_of_a_class_resemble_each_other() -> None:
    inputs, labels = samples((3, 16, 16), 64, seed=1)
    flat = nn.functional.normalize(inputs.flatten(1))
    alike = flat @ flat.T
    same = labels[:, None] == labels[None]
    assert float(alike[same].mean()) > float(alike[~same].mean()) + 0.3


def test_speed_is_a_ratio_of_two_sessions(plain: Trial) -> None:
    assert speed_over_fp32(plain.float_model, plain.model, SHAPE, rounds=2) > 0


def test_speeds_of_an_earlier_run_are_kept_with_their_commit() -> None:
    row, before = {"commit": "new", "speed_over_fp32": None}, {"commit": "old", "speed_over_fp32": 2.0}
    assert with_speed(row, before) == {"commit": "new", "speed_over_fp32": 2.0, "speed_commit": "old"}
    assert with_speed(row, with_speed(row, before))["speed_commit"] == "old"
    assert with_speed(row | {"speed_over_fp32": 1.0}, before)["speed_over_fp32"] == 1.0
    assert with_speed(row, {}) == row
