"""Whole networks in XNNPACK: every logit is that of the integer model, bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deployment import noise, settle
from litert_files import WIDTHS, frozen_of, outputs_of
from torch import Tensor, nn

from qkd_deploy import create_model

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'qkd-deploy[litert]'")


class UNet(nn.Module):
    """Pooled, upsampled, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.last = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        deep = self.second(F.max_pool2d(y, 2))
        return self.last(torch.cat([y, F.interpolate(deep, scale_factor=2.0, mode="bilinear")], 1))


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "unet"])
def test_no_bit_differs_and_convolutions_are_xnnpacks(name: str, bits: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = settle(UNet() if name == "unet" else create_model(name, 5))
    frozen, images = frozen_of(network, bits, 3, 32, 32), noise(4, 3, 32, 32, seed=1)
    got, kernels = outputs_of(frozen, images, tmp_path)
    np.testing.assert_array_equal(got, frozen(images).numpy())
    assert not [kernel for kernel in kernels if "without" in kernel.name]
    assert all(kernel.integer for kernel in kernels if kernel.name.endswith("CONV_2D"))
