"""Networks of the user's: what their factories receive, and what is said where that does not fit."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from float_networks import float_network
from torch import nn

from qkd_deploy.checkpoints.checkpoint import (
    Checkpoint,
    load_checkpoint,
    prepare_student,
    rebuild,
    save_checkpoint,
)
from qkd_deploy.checkpoints.records import DatasetRecord, ModelRecord, TrainingRecord
from qkd_deploy.checkpoints.torch_file import save_tensors
from qkd_deploy.errors import UserError
from qkd_deploy.factory import plain_arguments
from qkd_deploy.graph.placement.settings import NetworkBits, QuantizationSettings
from qkd_deploy.models import create_model
from qkd_deploy.pixels.normalization import CENTERED

USER_MODULE = """
from torch import nn
def small(num_classes): return nn.Linear(4, num_classes)
class Net(nn.Linear):
    def __init__(self, in_channels, num_classes, depth=3): super().__init__(in_channels, num_classes)
def fixed(): return nn.Linear(4, 3)
def greedy(num_classes, width): return nn.Linear(width, num_classes)
def wrong(num_classes): return [num_classes]
def picky(num_classes, kind="a"):
    if kind not in ("a", "b"): raise ValueError("no such kind")
    return nn.Linear(4, num_classes)

class Timm(nn.Linear):
    def __init__(self, num_classes=1000, in_chans=3, width=4):
        super().__init__(width, num_classes)
        self.seen = num_classes, in_chans
def timm_like(model_name, pretrained=False, num_classes=1000, in_chans=3, **kwargs):
    return Timm(num_classes, in_chans, **kwargs)
def all_keywords(model_name, pretrained=False, **kwargs): return Timm(**kwargs)

class TorchVision(nn.Linear):
    def __init__(self, num_classes=1000): super().__init__(4, num_classes)
def torchvision_like(*, weights=None, progress=True, **kwargs): return TorchVision(**kwargs)

def mixed(num_classes, in_channels, **kwargs):
    assert not kwargs
    return nn.Linear(in_channels, num_classes)

def cnn(num_classes, in_channels, widths=(4,)):
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes)
    return nn.Sequential(nn.Conv2d(in_channels, widths[-1], 3), nn.ReLU(), *head)
"""


@pytest.fixture(autouse=True)
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_networks.py").write_text(USER_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)


def create(name: str, classes: int = 5, channels: int = 3, **args: Any) -> Any:
    return create_model(name if name == "resnet8" else f"my_networks:{name}", classes, channels, args)


def refusal(name: str, **args: Any) -> str:
    with pytest.raises(UserError) as caught:
        create(name, **args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_factories_receive_what_they_accept() -> None:
    shapes = [create(name, channels=2).weight.shape for name in ("small", "Net", "fixed")]
    assert shapes == [(5, 4), (5, 2), (3, 4)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["timm_like", "all_keywords"])
def test_timm_factories_receive_classes_and_channels_under_their_names(name: str, channels: int) -> None:
    model = create(name, channels=channels, model_name="resnet18", width=6)
    assert model.seen == (5, channels)
    assert model.weight.shape == (5, 6)


def test_torchvision_factories_receive_classes_and_no_channels() -> None:
    assert create("torchvision_like").weight.shape == (5, 4)
    with pytest.raises(UserError, match="unexpected keyword argument 'in_chans'"):
        create("torchvision_like", channels=1)  # it builds networks for three channels only


@pytest.mark.parametrize("channels", [1, 3])
def test_a_keyword_is_offered_under_one_name_only(channels: int) -> None:
    assert create("mixed", channels=channels).weight.shape == (5, channels)


def test_arguments_win_over_what_is_offered() -> None:
    assert create("small", num_classes=7).weight.shape == (7, 4)


def test_factories_that_fail_are_explained() -> None:
    assert "missing a required argument: 'width'; it is offered only num_classes, in_channels: give" in refusal(
        "greedy"
    )
    assert "returned a list; a model factory must return a torch.nn.Module" in refusal("wrong")
    assert "takes no argument 'kid' (did you mean 'kind'?); it takes num_classes, kind" in refusal("picky", kid="a")
    assert "takes no argument 'depth'; it takes none" in refusal("fixed", depth=3)
    assert "resnet8 takes no argument 'depth'; it takes num_classes, in_channels" in refusal("resnet8", depth=3)
    assert refusal("picky", kind="c").endswith(
        "failed with ValueError: no such kind; correct its arguments (kind = 'c') or that model factory"
    )
    assert "resnet8 failed with TypeError" in refusal("resnet8", num_classes="many")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (3, "must map keywords to values"),
        ({"two words": 1}, "the key 'two words'"),
        ({1: 1}, "the key 1"),
        ({"weight": torch.zeros(1)}, "weight is tensor"),
        ({"steps": [1, None]}, "can be given only text, numbers"),
    ],
)
def test_arguments_are_plain_data(value: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=f"model_args.*{complaint}"):
        plain_arguments("model_args", value)
    plain = {"name": "a", "sizes": [1, 2.5], "table": {"on": True}}
    assert plain_arguments("model_args", plain) == plain


QUANTIZATION = NetworkBits().quantization(CENTERED)
ARGS = {"widths": [3, 6]}


def checkpoint(network: nn.Module, quantization: QuantizationSettings | None) -> Checkpoint:
    return Checkpoint(
        state_dict=dict(network.state_dict()),
        model=ModelRecord("my_networks:cnn", 10, 1, [1, 8, 8], ARGS),
        dataset=DatasetRecord("digits", "digits", "0123456789abcdef", list("0123456789"), CENTERED.as_entry()),
        training=TrainingRecord("qat", 3, 0, 97.5, 359),
        quantization=quantization,
    )


def test_checkpoints_rebuild_networks_with_their_arguments(tmp_path: Path) -> None:
    network = create("cnn", 10, 1, **ARGS)
    prepared = prepare_student(network, [1, 8, 8], QUANTIZATION)
    save_checkpoint(tmp_path / "model.pt", checkpoint(prepared, QUANTIZATION))
    save_checkpoint(tmp_path / "teacher.pt", checkpoint(network, None))
    loaded = load_checkpoint(tmp_path / "model.pt")
    assert loaded.model.args == ARGS
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(rebuild(loaded, "my_networks:cnn")(images), prepared.eval()(images))
    teacher = float_network(tmp_path / "teacher.pt")
    assert torch.equal(teacher.eval()(images), network.eval()(images))


def test_checkpoints_from_before_there_were_arguments_are_read(tmp_path: Path) -> None:
    network = create_model("plaincnn", 10, 1)
    save_checkpoint(tmp_path / "old.pt", checkpoint(network, None))
    content = torch.load(tmp_path / "old.pt", weights_only=True)
    old = {key: value for key, value in asdict(ModelRecord("plaincnn", 10, 1, [1, 8, 8])).items() if key != "args"}
    save_tensors(tmp_path / "old.pt", {**content, "model": old})
    loaded = load_checkpoint(tmp_path / "old.pt")
    assert loaded.model.args == {}
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(float_network(tmp_path / "old.pt")(images), network.eval()(images))
