"""Ways out of checkpoints that cannot be rebuilt, and of weights that do not fit a network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from ways import Way, follow, require_all

import qkd_deploy as qkd
from qkd_deploy.calibration.one_batch import initialize
from qkd_deploy.checkpoints import schema
from qkd_deploy.checkpoints.checkpoint import Checkpoint, load_checkpoint, prepare_student, rebuild, save_checkpoint
from qkd_deploy.checkpoints.records import DatasetRecord, ModelRecord, TrainingRecord
from qkd_deploy.checkpoints.torch_file import read_tensors, save_tensors
from qkd_deploy.checkpoints.weights import load_into
from qkd_deploy.graph.placement.settings import NetworkBits
from qkd_deploy.models import create_model
from qkd_deploy.pixels.normalization import CENTERED

TEST = "tests/packaging/ways/test_checkpoint_ways.py::test_the_way_out_works"


@cache
def trained() -> Checkpoint:
    """What a training run leaves as model.pt."""
    torch.manual_seed(0)
    settings = NetworkBits().quantization(CENTERED)
    model = prepare_student(create_model("plaincnn", 10, 1), [1, 8, 8], settings)
    initialize(model, torch.randn(4, 1, 8, 8))
    return Checkpoint(
        state_dict=dict(model.state_dict()),
        model=ModelRecord("plaincnn", 10, 1, [1, 8, 8]),
        dataset=DatasetRecord("digits", "digits", "0123456789abcdef", list("0123456789"), CENTERED.as_entry()),
        training=TrainingRecord("qat", 1, 0, 97.5, 359),
        quantization=settings,
    )


def model_file(folder: Path) -> Path:
    save_checkpoint(folder / "model.pt", trained())
    return folder / "model.pt"


def loads(folder: Path) -> object:
    """Load the model.pt of a run."""
    return qkd.load(model_file(folder))


def of_others(folder: Path) -> object:
    torch.save({"conv.weight": torch.zeros(3)}, folder / "others.pt")
    return load_checkpoint(folder / "others.pt")


def in_full_precision(folder: Path) -> object:
    save_checkpoint(folder / "float.pt", replace(trained(), quantization=None))
    return qkd.load(folder / "float.pt")


def of_an_own_network(folder: Path, **options: Any) -> object:
    code = "from qkd_deploy.models import create_model\ndef net(num_classes, in_channels):\n"
    (folder / "a_network.py").write_text(f"{code}    return create_model('plaincnn', num_classes, in_channels)\n")
    save_checkpoint(folder / "own.pt", replace(trained(), model=replace(trained().model, name="a_network:net")))
    with chdir(folder):
        return qkd.load("own.pt", **options)


def with_entries(**entries: Any) -> Callable[[Path], object]:
    """Load a checkpoint with other entries."""

    def load(folder: Path) -> Checkpoint:
        save_tensors(folder / "other.pt", {**read_tensors(model_file(folder)), **entries})
        return load_checkpoint(folder / "other.pt")

    return load


def with_model(**entries: Any) -> Callable[[Path], object]:
    entry = {"name": "plaincnn", "num_classes": 10, "in_channels": 1, "image_shape": [1, 8, 8]}
    return with_entries(model={**entry, **entries})


def with_pixels(**entries: Any) -> Callable[[Path], object]:
    record = asdict(trained().dataset)
    return with_entries(dataset={**record, "normalization": {**CENTERED.as_entry(), **entries}})


def without_step(folder: Path) -> object:
    state = {name: value * 0 if name.endswith("step.start") else value for name, value in trained().state_dict.items()}
    return rebuild(replace(trained(), state_dict=state))


def read_by_version_99(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as version:
        version.setattr(schema, "VERSION", 99)
        load_checkpoint(folder / "other.pt")


class Net(nn.Module):
    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 2, 3), nn.Linear(2, classes)


def weights(prefix: str = "") -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {f"{prefix}{name}": value for name, value in Net().state_dict().items()}


def start(found: dict[str, Tensor], classes: int = 2, skip: tuple[str, ...] = ()) -> None:
    """Load weights: those of the body, at least, become the file's."""
    network = Net(classes)
    load_into(network, found, "net", "weights.pt", skip=skip)
    assert torch.equal(network.body.weight, weights()["body.weight"])


def saved_alone(folder: Path) -> None:
    both = {**weights("student."), **weights("teacher.")}
    torch.save({name: value for name, value in both.items() if name.startswith("student.")}, folder / "student.pt")
    start(torch.load(folder / "student.pt"))


WAYS: dict[str, Way] = {
    "a file of others": Way(of_others, "is not a checkpoint of qkd-deploy", loads),
    "full precision": Way(in_full_precision, "holds a full-precision network", loads),
    "a network of one's own": Way(
        of_an_own_network,
        "to allow importing that code, name it again",
        lambda p: of_an_own_network(p, model="a_network:net"),
        advice="model='a_network:net', or --model a_network:net on",
    ),
    "a step of zero": Way(without_step, "is damaged: a quantization step is", loads),
    "another version": Way(
        with_entries(format_version=99), "use the program's version that wrote it", read_by_version_99
    ),
    "no state": Way(with_entries(state_dict=None), "it holds no weights, or others than dense tensors", loads),
    "an odd entry": Way(with_model(name=5), "its entry {} is not as expected", loads),
    "odd settings": Way(with_entries(quantization=[1]), "its entry {} is not as expected", loads),
    "odd pixels": Way(with_pixels(std=0.0), "its entry {} is not as expected", loads),
    "pixels in colour": Way(with_pixels(mean=[1.0, 2.0, 3.0]), "its entry {} is not as expected", loads),
    "an odd shape": Way(with_model(image_shape=[3, 8, 8]), "has an impossible image shape", loads),
    "too many classes": Way(with_model(num_classes=2**23), "has more classes than weights", loads),
    "another model": Way(
        lambda p: load_into(Net(), {"a.weight": torch.zeros(3)}, "net", "weights.pt"),
        "{} does not fit {}: {}; {}",
        lambda p: start(weights()),
        advice="; name the model it belongs to",
    ),
    "another head": Way(
        lambda p: start(weights(), classes=5),
        "{} does not fit {}: {}; {}",
        lambda p: [start(weights(), skip=("head",), classes=5), start(weights())],
        advice="; name the model it belongs to, or let head start at random with init_skip (--init-skip)",
    ),
    "weights that are not finite": Way(
        lambda p: start({**weights(), "head.bias": torch.full((2,), torch.nan)}),
        "holds NaN or infinite values",
        lambda p: start(weights()),
    ),
    "two networks": Way(
        lambda p: start({**weights("student."), **weights("teacher.")}), "save one of them alone", saved_alone
    ),
    "a pattern without a match": Way(
        lambda p: start(weights(), skip=("haed",)),
        "write the path of a module",
        lambda p: start(weights(), skip=("head",)),
        advice=", such as head",
    ),
}


def test_all_sentences_are_followed() -> None:
    require_all(WAYS, TEST)


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path, TEST)
