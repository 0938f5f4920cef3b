"""Files for OpenVINO: codes of its outputs, kernels that it chooses, and what the file says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from deployment import noise, settle
from torch import nn

from qkd_deploy import create_model, freeze, initialize, prepare
from qkd_deploy.errors import UserError
from qkd_deploy.export.targets.child import TargetProcess
from qkd_deploy.export.targets.openvino import TARGET
from qkd_deploy.export.targets.registry import target_named, target_of
from qkd_deploy.export.targets.target import Form
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.models.vision_transformer import VisionTransformer

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'qkd-deploy[openvino]'")


class Depthwise(nn.Module):
    """Two blocks of MobileNetV2: widened, by channel, narrowed, added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6())
        wide = [nn.Conv2d(8, 24, 1), nn.BatchNorm2d(24), nn.ReLU6(), nn.Conv2d(24, 24, 3, 1, 1, groups=24)]
        self.block = nn.Sequential(*wide, nn.BatchNorm2d(24), nn.ReLU6(), nn.Conv2d(24, 8, 1), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        y = y + self.block(y)
        return self.head(y.mean((2, 3)))


class Dense(nn.Module):
    """A small U-Net: pooled, upsampled, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.last = nn.Conv2d(24, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        deep = self.second(nn.functional.max_pool2d(y, 2))
        return self.last(torch.cat([y, nn.functional.interpolate(deep, scale_factor=2.0)], 1))


def tokens() -> nn.Module:
    """A small vision transformer: layer norms, attention, GELUs."""
    return VisionTransformer(5, 3, image_size=32, patch_size=8, depth=2)


def frozen_of(network: nn.Module, bits: str, size: int = 32, **options: str) -> FrozenModel:
    """The integer model of a network with settled batch norms, its steps set on noise."""
    images = noise(4, 3, size, size)
    prepared = prepare(settle(network), bits, (images[:1],), **options)
    initialize(prepared, images)
    return freeze(prepared)


def steps_off(frozen: FrozenModel, got: np.ndarray, images: torch.Tensor) -> float:
    """The largest difference in steps of the output's grid, or in 255ths of its largest value."""
    expected = torch.cat([frozen(image[None]) for image in images]).numpy()
    node = frozen.graph.node(frozen.graph.outputs()[0])
    step = float(frozen.grid(node.quantizer).scale) if node.quantizer else float(np.abs(expected).max()) / 255
    return float(np.abs(got - expected).max() / step)


@pytest.mark.parametrize(
    ("network", "bits"),
    [
        *(("resnet8", "w8a8"), ("resnet8", "w4a8"), ("resnet8", "w4a4"), (Depthwise, "w4a4"), (Dense, "w4a4")),
        *((tokens, "w8a8"), (tokens, "w4a8"), (tokens, "w4a4")),
    ],
)
@pytest.mark.parametrize("normalization", ["centered", "imagenet"])  # the latter needs borders that are no zeros
def test_no_code_differs_and_convolutions_are_integer(
    network: str | Callable[[], nn.Module], bits: str, normalization: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    made = create_model(network, 5) if isinstance(network, str) else network()
    frozen = frozen_of(made, bits, normalization=normalization)
    path = tmp_path / f"model{TARGET.suffix}"
    path.write_bytes(TARGET.build(frozen, Form(), "record"))
    images = noise(4, 3, 32, 32, seed=1)
    with TargetProcess(TARGET, path) as process:
        got = np.concatenate([process.run([image[None].numpy()])[0] for image in images])
        kernels = process.kernels()
    assert steps_off(frozen, got, images) <= 0.01
    convolutions = [kernel for kernel in kernels if kernel.name == "Convolution"]
    assert convolutions and all(kernel.integer for kernel in convolutions)


def test_attention_and_layer_norms_are_exact_beside_ties(tmp_path: Path) -> None:
    """Codes of these images differed where factors were moved over products, and quotients were not the nearest."""
    torch.manual_seed(1)
    images = torch.randn(6, 3, 112, 112).clamp(-2, 1.98)
    network = VisionTransformer(5, 3, image_size=112, patch_size=8, depth=2)
    prepared = prepare(network.eval(), "w8a8", (images[:1],))
    initialize(prepared, images[:4])
    frozen = freeze(prepared)
    path = tmp_path / f"model{TARGET.suffix}"
    path.write_bytes(TARGET.build(frozen, Form(), "record"))
    with TargetProcess(TARGET, path) as process:
        got = np.concatenate([process.run([image[None].numpy()])[0] for image in images])
    assert steps_off(frozen, got, images) <= 0.01


def test_a_file_says_what_it_is_and_is_the_same_again(tmp_path: Path) -> None:
    frozen = frozen_of(create_model("resnet8", 5), "w4a4")
    content = TARGET.build(frozen, Form(), "abc=")
    assert content == TARGET.build(frozen, Form(), "abc=")
    assert TARGET.record(content) == "abc="
    assert TARGET.record(b"something else") is None
    found = target_of(tmp_path / f"model{TARGET.suffix}", content)
    assert found is not None and found[0] is TARGET


def test_packed_weights_are_refused_and_the_way_out_works() -> None:
    frozen = frozen_of(create_model("resnet8", 5), "w4a4")
    with pytest.raises(UserError, match="use --weights int8"):
        TARGET.build(frozen, Form(weights="packed"), "")
    assert TARGET.build(frozen, Form(weights="int8"), "")


def test_rows_too_long_for_float32_are_named_and_another_target_takes_them() -> None:
    frozen = frozen_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LayerNorm(7200), nn.Linear(7200, 5)), "w4a4")
    with pytest.raises(
        UserError, match=r"has no form for OpenVINO: its rows are longer than \d+; choose another target"
    ):
        TARGET.build(frozen, Form(), "")
    assert target_named("ort-mobile").build(frozen, Form(), "")
