"""A folder as a user has it who has trained once, small enough to be copied for every mistake."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from command_ways import command

OWN = '''
import torch
from torch import nn

from qkd_deploy.data import ImageDataset, Split
from qkd_deploy.models import create_model

constant = 3


def net(num_classes, in_channels):
    return create_model("plaincnn", num_classes, in_channels)


def deep(num_classes, in_channels, depth=1, day=""):
    if depth < 1:
        raise ValueError("no layers")
    return net(num_classes, in_channels)


def wide(num_classes, in_channels, width):
    return net(num_classes, in_channels)


def five(num_classes, in_channels):
    return net(5, in_channels)


class Plain(nn.Module):
    """Without batch norms, so that it diverges."""

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.a, self.b = nn.Conv2d(in_channels, 8, 3), nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(128, num_classes)

    def forward(self, x):
        return self.fc(torch.relu(self.b(torch.relu(self.a(x)))).flatten(1))


class Interrupted(Plain):
    """Ends as if somebody pressed Ctrl-C while it trains."""

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            raise KeyboardInterrupt
        return super().forward(x)


class Straight(Plain):
    """So that it diverges in a few steps."""

    def forward(self, x):
        return self.fc(self.b(self.a(x)).flatten(1))


class Coarse(Plain):
    """A factor of 1 in float32, and of infinity where bfloat16 rounds 1.001 to 1."""

    def forward(self, x):
        gate = nn.functional.linear(torch.ones(1, 1), torch.tensor([[1.001]]))
        return super().forward(x) * (0.001 / (gate - 1))


class Two(Plain):
    """A first and a last layer."""

    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.b = nn.MaxPool2d(2, 1, padding=0)
        self.fc = nn.Linear(200, num_classes)


def photos():
    split = Split(torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8), torch.arange(40) % 3)
    return ImageDataset("photos", split, split, ("a", "b", "c"))


def greys(count, names):
    split = Split(torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8), torch.arange(count) % len(names))
    return ImageDataset("greys", split, split, tuple(names))
'''
TRAIN = "train --dataset data.npz --model plaincnn --method qat --epochs 1 --pretrain-epochs 1 --batch-size 20"


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.npz, own.py, run/ (a finished run), model.pt and model.onnx (of it), float.pt (where it began)."""
    folder = tmp_path_factory.mktemp("small")
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8), np.arange(60) % 3
    np.savez(folder / "data.npz", x_train=images[:40], y_train=labels[:40], x_test=images[40:], y_test=labels[40:])
    (folder / "own.py").write_text(OWN)
    for line in (f"{TRAIN} --out run", "export run/model.pt --output model.onnx"):
        done = command(line, folder)
        assert done.code == 0, done.err
    shutil.copy(folder / "run/model.pt", folder / "model.pt")
    shutil.copy(folder / "run/checkpoints/student-float.pt", folder / "float.pt")
    return folder


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the plot of every run, which takes longer than the run."""
    monkeypatch.setattr("qkd_deploy.training.monitoring.recorder.plot_run", lambda folder: None)


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    """One's own copy."""
    return Path(shutil.copytree(small, tmp_path / "own"))
