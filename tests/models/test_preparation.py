"""Built-in networks run in integers, but for what is named here."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qkd_deploy import prepare
from qkd_deploy.models import create_model

CNNS = {"mobilenetv2": {"width_multiplier": 0.25}, "efficientnet_b0": {}, "efficientnet_lite0": {}}
VIT = {"image_size": 32, "patch_size": 8, "depth": 1, "width": 48}


@pytest.mark.parametrize(("name", "args"), CNNS.items())
def test_networks_for_mobile_cpus_are_fully_integer(name: str, args: dict[str, Any]) -> None:
    network = create_model(name, 10, 3, {"small_images": True, **args})
    prepared = prepare(network.eval(), "w4a4", (torch.randn(2, 3, 32, 32),))
    assert prepared.account.floats == ()


def test_vision_transformers_keep_layer_norms_and_parts_of_attention_in_float() -> None:
    prepared = prepare(create_model("vit_tiny", 10, 3, VIT).eval(), "w4a8", (torch.randn(2, 3, 32, 32),))
    kept = {entry.name.rpartition(".")[2] for entry in prepared.account.floats}
    assert kept == {"norm1", "norm2", "norm", "softmax", "matmul_2"}  # the last two divide sums of integers
