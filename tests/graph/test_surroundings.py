"""What surrounds a model changes none of its codes: names of modules, autocast, convolution backends, train mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from deployment import assert_same_codes, deploy, noise, settle
from torch import Tensor, nn

from qkd_deploy import create_model, freeze, initialize, prepare
from qkd_deploy.graph.integer.preview import preview_codes

IMAGES = noise(16, 3, 32, 32)


class _Pair(nn.Module):
    """Two linear layers, named as attributes of ``nn.ModuleDict`` are, with something between them."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.values, self.items = nn.Linear(8, 8), nn.Linear(8, 4)
        self.between = between

    def forward(self, keys: Tensor) -> Tensor:
        return self.items(self.between(self, self.values(keys)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "between",
    [
        pytest.param(lambda _, x: torch.relu(x), id="names of layers and inputs"),
        pytest.param(lambda _, x: torch.sigmoid(x).to(torch.float32).type(torch.float32), id="names of methods"),
        pytest.param(lambda net, x: torch.relu(x) * net.values.weight.mean(), id="a weight read twice"),
        pytest.param(lambda net, x: torch.sigmoid(x) * net.values.bias, id="a bias read twice"),
    ],
)
def test_names_of_modules_and_tensors_are_free(between: Callable[[Any, Tensor], Tensor]) -> None:
    inputs = (noise(16, 8),)
    assert_same_codes(deploy(_Pair(between), inputs), inputs)


@pytest.mark.parametrize(
    "copied",
    [
        lambda x: x.to(torch.float32),
        torch.clone,
        lambda x: x.detach().type(x.dtype),
        lambda x: x * 1.0,
        lambda x: x + 0,
        lambda x: x.div(1) - 0.0,
        lambda x: x.expand(-1, -1),
    ],
)
def test_copies_pass_on_codes(copied: Callable[[Tensor], Tensor]) -> None:
    """As operations in float they would leave two quantizers in a row, which ONNX Runtime merges wrongly."""
    inputs = (noise(16, 8),)
    deployed = deploy(_Pair(lambda _, x: copied(torch.relu(x))), inputs)
    assert assert_same_codes(deployed, inputs) == set()
    assert deployed.prepared.account.floats == ()


def _differing(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    return [name for name in one if not np.array_equal(one[name], two[name])]


def test_codes_do_not_depend_on_autocast_and_backends() -> None:
    deployed = deploy(settle(create_model("resnet8", 10)), (IMAGES,))
    prepared, frozen = deployed.prepared, deployed.frozen
    codes = frozen.codes(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        assert _differing(codes, frozen.codes(IMAGES)) == []
        previews = list(preview_codes(prepared, frozen, IMAGES))
    assert max(np.mean(preview != own) for _, preview, own in previews) < 1e-3
    # without oneDNN, torch would take NNPACK, whose Winograd transforms are not exact
    with torch.backends.mkldnn.flags(enabled=False):
        assert _differing(codes, frozen.codes(IMAGES)) == []


def test_a_gradient_changes_no_value_in_eval_mode() -> None:
    prepared = deploy(settle(create_model("resnet8", 10)), (IMAGES[:2],)).prepared
    with torch.no_grad():
        expected = prepared(IMAGES)
    got = prepared(IMAGES)
    assert torch.equal(got, expected)
    got.sum().backward()
    assert all(step.grad is not None for step in prepared.activation_steps())


def test_a_quantizer_behind_floats_keeps_its_step() -> None:
    """In the papers' placement, the grid before the convolution has no part in that of its output."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 3))
    nn.init.normal_(model[0].weight, std=1e-6)
    pixels = (IMAGES - IMAGES.min()) * 40
    prepared = prepare(model, "w4a4", (pixels,), placement="paper")
    initialize(prepared, pixels)
    frozen = freeze(prepared)
    keys = [node.quantizer for node in frozen.graph.nodes if node.quantizer is not None]
    assert len(keys) == 2
    for key in keys:
        assert float(frozen.grid(key).scale) == float(prepared.activation(key).scale())
