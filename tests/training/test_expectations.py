"""Who says what pixels networks take, in which order they are asked, and how images are converted for another one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from qkd_deploy.checkpoints.checkpoint import Checkpoint, save_checkpoint
from qkd_deploy.checkpoints.records import DatasetRecord, ModelRecord, TrainingRecord
from qkd_deploy.data import ImageDataset, Split, normalize
from qkd_deploy.models import create_model
from qkd_deploy.pixels.normalization import CENTERED, PRESETS, Normalization
from qkd_deploy.training.expectations import expectations
from qkd_deploy.training.groups import DataSource
from qkd_deploy.training.networks import NetworkSource
from qkd_deploy.training.renormalize import renormalize

IMAGENET, HALF = PRESETS["imagenet"], PRESETS["half"]
SAYS = """
from torch import nn

def says(mean=0.5):
    network = nn.Identity()
    network.default_cfg = {"mean": [mean] * 3, "std": [0.5] * 3, "crop_pct": 0.9, "interpolation": "bicubic"}
    return network
"""


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NetworkSource:
    (tmp_path / "saying.py").write_text(SAYS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "saying", raising=False)
    return NetworkSource("saying:says", {}, None, None)


@pytest.fixture
def trained(tmp_path: Path) -> NetworkSource:
    """A network with a checkpoint of ours, trained on pixels as ImageNet's are normalised."""
    state, shape = create_model("plaincnn", 2, 3).state_dict(), [3, 8, 8]
    data = DatasetRecord("d", "d", "0", ["a", "b"], IMAGENET.as_entry())
    checkpoint = Checkpoint(
        dict(state), ModelRecord("plaincnn", 2, 3, shape), data, TrainingRecord("qat", 1, 0, 50.0, 9)
    )
    save_checkpoint(tmp_path / "own.pt", checkpoint)
    return NetworkSource("plaincnn", {}, str(tmp_path / "own.pt"), None)


UNKNOWN = NetworkSource("resnet20", {}, None, None)
THREE_HALVES = Normalization((0.5,) * 3, (0.5,) * 3)


def test_nothing_known_is_centered() -> None:
    found = expectations(DataSource(), {"student": UNKNOWN, "teacher": UNKNOWN})
    assert found.networks == {"student": CENTERED, "teacher": CENTERED}
    assert (found.images.interpolation, found.images.crop_pct, found.warning) == ("bilinear", None, "")


def test_the_student_is_asked_before_the_teacher(says: NetworkSource, trained: NetworkSource) -> None:
    found = expectations(DataSource(), {"teacher": trained, "student": says})
    assert (found.normalization, found.networks["teacher"]) == (THREE_HALVES, IMAGENET)
    assert (found.images.interpolation, found.images.crop_pct) == ("bicubic", 0.9)


def test_a_student_of_which_nothing_is_known_takes_what_the_teacher_does(trained: NetworkSource) -> None:
    found = expectations(DataSource(), {"student": UNKNOWN, "teacher": trained})
    assert found.networks == {"student": IMAGENET, "teacher": IMAGENET}


def test_a_checkpoint_knows_better_than_a_factory(says: NetworkSource, trained: NetworkSource) -> None:
    both = NetworkSource(says.name, {}, trained.weights, None)
    found = expectations(DataSource(), {"student": both})
    assert (found.normalization, found.images.crop_pct) == (IMAGENET, 0.9)


def test_what_the_user_names_holds_for_all(says: NetworkSource, trained: NetworkSource) -> None:
    named = DataSource(normalization="cifar10", interpolation="bilinear", crop_pct=0.0)
    found = expectations(named, {"student": says, "teacher": trained})
    assert set(found.networks.values()) == {PRESETS["cifar10"]}
    assert (found.images.interpolation, found.images.crop_pct) == ("bilinear", 0.0)


def test_what_does_not_fit_the_images_says_nothing(says: NetworkSource) -> None:
    grey = expectations(DataSource(), {"student": says}).fitting(images_of(1))
    assert (grey.normalization, grey.networks) == (CENTERED, {"student": CENTERED})
    assert expectations(DataSource(), {"student": says}).fitting(images_of(3)).normalization == THREE_HALVES


def images_of(channels: int, normalization: Normalization = CENTERED) -> ImageDataset:
    split = Split(torch.zeros(2, channels, 4, 4, dtype=torch.uint8), torch.arange(2), normalization)
    return ImageDataset("d", split, split, ("a", "b"))


def test_a_data_set_is_asked_last(says: NetworkSource) -> None:
    halved = images_of(3, HALF)
    weights = NetworkSource("own:net", {}, "weights.pt", None)
    nothing = expectations(DataSource(), {"student": weights})
    assert nothing.fitting(images_of(3)).warning
    assert (nothing.fitting(halved).networks, nothing.fitting(halved).warning) == ({"student": HALF}, "")
    assert expectations(DataSource(), {"student": says}).fitting(halved).normalization == THREE_HALVES


def test_asking_does_not_disturb_random_numbers(says: NetworkSource) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    expectations(DataSource(), {"student": NetworkSource("torch.nn:Linear", {"in_features": 3}, None, None)})
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("given", [IMAGENET, CENTERED])
@pytest.mark.parametrize("wanted", [HALF, PRESETS["cifar10"]])
def test_images_are_converted_for_another_network(given: Normalization, wanted: Normalization) -> None:
    network = nn.Sequential(nn.Flatten())
    renormalize(network, given, wanted, 3)
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    found = network(normalize(pixels, given))
    torch.testing.assert_close(found, normalize(pixels, wanted).flatten(1), atol=1e-5, rtol=0)
    assert not network.state_dict()
