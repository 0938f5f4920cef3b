"""Networks for mobile CPUs: published sizes and names, resolutions, widths and initial weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from qkd_deploy.models import create_model
from qkd_deploy.models.mobilenetv2 import rounded

PARAMETERS = {"mobilenetv2": 3_504_872, "efficientnet_b0": 5_288_548, "efficientnet_lite0": 4_652_008}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def last_size(model: Any, pixels: int) -> tuple[int, int]:
    """Height and width of what global pooling sees."""
    seen: list[torch.Tensor] = []
    model.avgpool.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.eval()(torch.randn(1, 3, pixels, pixels))
    return seen[0].shape[2], seen[0].shape[3]


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_they_have_the_published_size_and_resolution(name: str, count: int) -> None:
    model = create_model(name, 1000)
    assert parameters(model) == count
    assert last_size(model, 224) == (7, 7)


@pytest.mark.parametrize("name", PARAMETERS)
def test_small_images_keep_some_resolution(name: str) -> None:
    model = create_model(name, 10, 3, {"small_images": True})
    assert last_size(model, 32) == (4, 4)
    assert parameters(model) == parameters(create_model(name, 10))


def test_widths_of_mobilenetv2_are_the_published_ones() -> None:
    # the published counts of torchvision's other widths
    for factor, count in ((0.5, 1_968_680), (1.4, 6_108_776)):
        assert parameters(create_model("mobilenetv2", 1000, 3, {"width_multiplier": factor})) == count
    assert [rounded(channels) for channels in (3, 12, 33.6, 18, 24)] == [8, 16, 32, 24, 24]


def test_names_of_parameters_are_the_public_ones() -> None:
    shapes = {key: tuple(value.shape) for key, value in create_model("mobilenetv2", 1000).state_dict().items()}
    assert len(shapes) == 314
    assert shapes["features.0.0.weight"] == (32, 3, 3, 3)
    assert shapes["features.1.conv.1.weight"] == (16, 32, 1, 1)
    assert shapes["features.2.conv.1.0.weight"] == (96, 1, 3, 3)
    assert shapes["features.18.1.running_var"] == (1280,)
    assert shapes["classifier.1.weight"] == (1000, 1280)
    shapes = {key: tuple(value.shape) for key, value in create_model("efficientnet_b0", 1000).state_dict().items()}
    assert len(shapes) == 360
    assert shapes["features.1.0.block.1.fc1.weight"] == (8, 32, 1, 1)
    assert shapes["features.2.0.block.2.fc2.bias"] == (96,)
    assert shapes["features.7.0.block.3.1.running_mean"] == (320,)
    assert shapes["features.8.0.weight"] == (1280, 320, 1, 1)


def test_functions_are_the_published_ones() -> None:
    kinds = {name: {type(module) for module in create_model(name, 10).modules()} for name in PARAMETERS}
    assert nn.ReLU6 in kinds["mobilenetv2"] & kinds["efficientnet_lite0"]
    assert {nn.SiLU, nn.Sigmoid} <= kinds["efficientnet_b0"]
    assert not {nn.SiLU, nn.Sigmoid, nn.ReLU} & kinds["efficientnet_lite0"]


def test_initial_weights_have_the_published_spread() -> None:
    torch.manual_seed(0)
    state = create_model("mobilenetv2", 1000).state_dict()
    assert state["features.18.0.weight"].std().item() == pytest.approx((2 / 1280) ** 0.5, rel=0.02)
    assert state["classifier.1.weight"].std().item() == pytest.approx(0.01, rel=0.02)
    state = create_model("efficientnet_b0", 1000).state_dict()
    assert state["classifier.1.weight"].abs().max().item() == pytest.approx(1000**-0.5, rel=0.01)
    assert not state["features.1.0.block.1.fc1.bias"].any()
