"""Ways out of arguments of another class than a function takes: each gets one of the class that the sentence names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from ways import Way, follow, require_all

import qkd_deploy as qkd
from qkd_deploy.checkpoints.checkpoint import Checkpoint, save_checkpoint
from qkd_deploy.checkpoints.records import DatasetRecord, ModelRecord, TrainingRecord
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.pixels.normalization import CENTERED, Normalization
from qkd_deploy.training.config import TrainConfig

TEST = "tests/packaging/ways/test_kind_ways.py::test_the_way_out_works"
IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
ANY: Any = 5


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()


def prepared(net: Any = None, bits: Any = "w8a8", **settings: Any) -> PreparedModel:
    return qkd.prepare(network() if net is None else net, bits, IMAGES, **settings)


def ready(**settings: Any) -> PreparedModel:
    model = prepared(**settings)
    qkd.initialize(model, IMAGES)
    return model


def saved(folder: Path) -> Path:
    model = ready(normalization=CENTERED)
    checkpoint = Checkpoint(
        state_dict=dict(model.state_dict()),
        model=ModelRecord("own:network", 10, 1, [1, 8, 8]),
        dataset=DatasetRecord("digits", "digits", "0123456789abcdef", list("0123456789"), CENTERED.as_entry()),
        training=TrainingRecord("qat", 1, 0, 97.5, 359),
        quantization=model.settings,
    )
    save_checkpoint(folder / "model.pt", checkpoint)
    return folder / "model.pt"


def exported(folder: Path) -> Path:
    qkd.export_onnx(ready(normalization=CENTERED), folder / "m.onnx")
    return folder / "m.onnx"


def trains(config: Any, out: Any) -> None:
    qkd.train(config, out)


CONFIG = TrainConfig(model="plaincnn", method="qat", epochs=1, pretrain_epochs=1)

WAYS: dict[str, Way] = {
    "a number to write to": Way(
        lambda p: qkd.export_onnx(ready(), ANY),
        "give a text or a pathlib.Path",
        lambda p: [qkd.export_onnx(ready(), path) for path in (str(p / "a.onnx"), p / "b.onnx")],
    ),
    "bits as a number": Way(lambda p: prepared(bits=4), "give a text such as 'w4a4'", lambda p: prepared(bits="w4a4")),
    "no network to compare with": Way(
        lambda p: qkd.reconstruct(ready(), ANY, IMAGES),
        "pass the network in full precision that was prepared",
        lambda p: qkd.reconstruct(ready(), network(), IMAGES),
    ),
    "a data set as a number": Way(
        lambda p: qkd.load_dataset(ANY),
        "the data set is",
        lambda p: qkd.load_dataset("digits"),
        "give a name such as 'digits', or imagefolder:PATH",
    ),
    "a folder as a number": Way(
        lambda p: qkd.load_dataset("digits", ANY), "data_dir is", lambda p: qkd.load_dataset("digits", p)
    ),
    "overrides as a text": Way(
        lambda p: prepared(overrides="w4a4"),
        "give bits by pattern",
        lambda p: prepared(overrides={"3": "float"}),
        "such as {'layer4.*': 'w8a8', 'head': 'float'}",
    ),
    "no network": Way(
        lambda p: prepared(net=ANY), "pass the network, an instance of a torch.nn.Module", lambda p: prepared()
    ),
    "a model as a number": Way(
        lambda p: qkd.create_model(ANY, 10),
        "give a name such as 'resnet20'",
        lambda p: [qkd.create_model(name, 10) for name in ("resnet20", f"{__name__}:made")],
    ),
    "classes as a text": Way(
        lambda p: qkd.create_model("resnet8", "10"),  # type: ignore[arg-type]
        "give a whole number",
        lambda p: qkd.create_model("resnet8", 10),
    ),
    "a normalization as a number": Way(
        lambda p: Normalization.parse(ANY),
        "normalization is {}; give one of",
        lambda p: [Normalization.parse(text) for text in ("imagenet", "half", "cifar10", "centered", "0.5/0.25")],
        "give one of imagenet, half, cifar10, centered, or MEANS/DEVIATIONS",
    ),
    "a dictionary of settings": Way(
        lambda p: trains({"epochs": 1}, p / "run"),
        "make one with TrainConfig(...)",
        lambda p: trains(CONFIG, p / "run"),
    ),
    "a run in a number": Way(lambda p: trains(CONFIG, ANY), "out is {}; give", lambda p: trains(CONFIG, p / "run")),
    "images as data": Way(
        lambda p: qkd.verify_onnx(exported(p), data=IMAGES),  # type: ignore[arg-type]
        "give what load_dataset returns, or arrays as inputs",
        lambda p: [
            qkd.verify_onnx(p / "m.onnx", data=qkd.load_dataset("digits"), limit=8),
            qkd.verify_onnx(p / "m.onnx", inputs=IMAGES.numpy()),
        ],
    ),
    "a file as a number": Way(
        lambda p: qkd.verify_onnx(ANY), "the ONNX file is", lambda p: qkd.verify_onnx(exported(p))
    ),
    "a checkpoint as a number": Way(
        lambda p: qkd.load(ANY), "give the path of a model.pt", lambda p: qkd.load(saved(p), model=network())
    ),
    "a network as a number": Way(
        lambda p: qkd.load(saved(p), model=ANY),
        "give 'package.module:factory' or a torch.nn.Module",
        lambda p: [qkd.load(saved(p), model=given) for given in (f"{__name__}:made", network())],
    ),
}


def made(num_classes: int) -> nn.Module:
    assert num_classes == 10
    return network()


def test_all_sentences_are_followed() -> None:
    require_all(WAYS, TEST)


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path, TEST)
