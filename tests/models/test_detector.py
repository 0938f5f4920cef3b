"""The detector: its maps for every kind of backbone, and that all of it runs in integers, bit for bit."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from deployment import assert_same_codes, deploy, float_operations, noise, settle
from torch import nn

from qkd_deploy import prepare
from qkd_deploy.errors import UserError
from qkd_deploy.export.onnx_export import export_onnx
from qkd_deploy.models import create_model
from qkd_deploy.models.backbones import create_backbone, maps_of
from qkd_deploy.training.methods.feature_points import output_of_module
from qkd_deploy.verification.verify import verify_onnx

TINY: dict[str, Any] = {
    "backbone": "resnet10",
    "backbone_args": {"width": 8},
    "neck_channels": 8,
    "head_layers": 1,
    "bins": 4,
}

USER_MODULE = """
from torch import nn

class Maps(nn.Module):
    def __init__(self, in_channels, strides=(8, 2, 2)):
        super().__init__()
        widths = [in_channels, 4, 5, 6]
        self.stages = nn.ModuleList(nn.Conv2d(a, b, s, s) for a, b, s in zip(widths, widths[1:], strides))
    def forward(self, x):
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

def features_of(model_name, features_only, in_chans, **others):
    assert model_name == "any" and features_only
    return Maps(in_chans, **others)

create_model = features_of
def one_map(in_channels): return nn.Conv2d(in_channels, 4, 32, 32)
def large_only(in_channels): return nn.Linear(7, 7)
def nothing(): return 3
"""


@pytest.fixture(autouse=True)
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("my_maps", "timm"):
        (tmp_path / f"{name}.py").write_text(USER_MODULE)
        monkeypatch.setitem(sys.modules, name, ModuleType(name))  # so that what the test imports is forgotten after it
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def detector(classes: int = 3, **args: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model("detector", classes, 3, {**TINY, **args})


def shapes(model: nn.Module, height: int = 64, width: int = 64) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(item.shape) for item in model(noise(2, 3, height, width))]


@pytest.mark.parametrize("mode", [True, False])
def test_it_returns_scores_and_boxes_of_every_level(mode: bool) -> None:
    assert shapes(detector().train(mode), 64, 96) == [
        (2, 3, 8, 12),
        (2, 16, 8, 12),
        (2, 3, 4, 6),
        (2, 16, 4, 6),
        (2, 3, 2, 3),
        (2, 16, 2, 3),
    ]


def test_a_finer_level_can_be_had_and_a_coarser_start() -> None:
    assert shapes(detector(finest_stride=4))[0] == (2, 3, 16, 16)
    assert len(shapes(detector(finest_stride=16))) == 4
    with pytest.raises(UserError, match="finest_stride is 7; give 4, 8 or 16"):
        detector(finest_stride=7)
    assert len(shapes(detector(finest_stride=8))) == 6


@pytest.mark.parametrize(
    ("backbone", "args"),
    [
        ("plaincnn", {}),  # ends at stride 4
        ("resnet8", {}),
        ("resnet50", {"width": 8}),
        ("mobilenetv2", {"width_multiplier": 0.25}),
        ("efficientnet_lite0", {}),
        ("my_maps:Maps", {}),
        ("my_maps:Maps", {"strides": [4, 2, 2]}),
        ("timm:any", {}),
    ],
)
def test_backbones_reach_stride_32(backbone: str, args: dict[str, Any]) -> None:
    model = detector(backbone=backbone, backbone_args=args)
    assert model.training
    assert [shape[2] for shape in shapes(model.eval())] == [8, 8, 4, 4, 2, 2]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_every_parameter_is_used() -> None:
    model = detector(backbone="mobilenetv2", backbone_args={"width_multiplier": 0.25})
    sum(item.square().sum() for item in model(noise(2, 3, 64, 64))).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("name", "head"), [("resnet18", ("fc",)), ("efficientnet_lite0", ("classifier", "features.8"))]
)
def test_backbones_have_the_names_of_their_classifiers(name: str, head: tuple[str, ...]) -> None:
    classifier = {
        key: value.shape for key, value in create_model(name, 5).state_dict().items() if not key.startswith(head)
    }
    backbone = create_backbone(name, 3)
    assert {key: value.shape for key, value in backbone.state_dict().items()} == classifier


def test_maps_of_a_backbone_are_the_last_of_their_size() -> None:
    network = create_backbone("resnet18", 3).eval()
    assert maps_of(network.train(), 3, "resnet18") == {2: (0, 64), 4: (1, 64), 8: (2, 128), 16: (3, 256), 32: (4, 512)}
    assert maps_of(create_backbone("mobilenetv2", 3), 3, "mobilenetv2")[32] == (4, 320)


@pytest.mark.parametrize(
    ("backbone", "args", "sentence"),
    [
        ("vit_tiny", {"image_size": 64}, "vit_tiny makes no maps of several sizes; choose another backbone"),
        ("my_maps:one_map", {}, "my_maps:one_map returns no list of maps"),
        ("my_maps:large_only", {}, "my_maps:large_only fails for an image of 64x64 pixels"),
        ("my_maps:nothing", {}, "returned a int; a backbone's factory must return a network"),
    ],
)
def test_another_backbone_is_chosen(backbone: str, args: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        detector(backbone=backbone, backbone_args=args)
    detector(backbone="resnet18", backbone_args={})
    detector(backbone="my_maps:Maps", backbone_args={})


def test_arguments_out_of_range_are_refused() -> None:
    coarse = {"backbone": "my_maps:Maps", "backbone_args": {"strides": [16, 2]}}
    with pytest.raises(UserError, match=r"makes maps of strides \[16, 32\], not of 8; raise finest_stride"):
        detector(**coarse)
    assert len(shapes(detector(**coarse, finest_stride=16))) == 4
    with pytest.raises(UserError, match="1 bins, 8 neck_channels and 1 head_layers make no detector; give at least"):
        detector(bins=1)
    assert shapes(detector(neck_channels=1, bins=2, head_layers=0))[1] == (2, 8, 8, 8)


def test_untrained_scores_are_low() -> None:
    answers = detector().eval()(noise(2, 3, 64, 64))
    assert all(bool((scores.sigmoid() < 0.1).all()) for scores in answers[0::2])


@pytest.mark.parametrize("depthwise", [True, False])
def test_all_of_it_is_integer_and_p3_is_a_feature(depthwise: bool) -> None:
    prepared = prepare(detector(depthwise=depthwise).eval(), "w4a4", (noise(2, 3, 64, 64),))
    assert prepared.account.floats == ()
    for level in ("p3", "p4", "p5"):
        assert output_of_module(prepared, level).startswith(f"{level}.")


@pytest.mark.filterwarnings("ignore::qkd_deploy.errors.QuantizationWarning")  # random batch norms squeeze channels
@pytest.mark.parametrize("bits", ["w4a4", "w8a8"])
def test_no_code_differs(bits: str, tmp_path: Path) -> None:
    images = noise(2, 3, 64, 64)
    deployed = deploy(settle(detector()), (images,), bits)
    for batch in (images, images[:1]):
        assert assert_same_codes(deployed, (batch,)) == set()
    assert float_operations(deployed.model) == []
    export_onnx(deployed.frozen, tmp_path / "model.onnx")
    report = verify_onnx(tmp_path / "model.onnx", frozen=deployed.frozen, inputs=images.numpy(), require_integer=True)
    assert report.passed, report
