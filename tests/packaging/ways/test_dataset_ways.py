"""Ways out of data sets of one's own that do not fit together, of metrics, and of options of batches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from image_files import write_tree
from torch import Tensor
from ways import Way, follow, require_all

from qkd_deploy.data import ImageDataset, Split, load_dataset
from qkd_deploy.data.augment.mixing import Mixing
from qkd_deploy.data.loader import batches
from qkd_deploy.data.metric import scores_of
from qkd_deploy.data.sets import assemble

TEST = "tests/packaging/ways/test_dataset_ways.py::test_the_way_out_works"
LABELS = torch.arange(6) % 3
NAMES = ("a", "b", "c")
MIXUP = Mixing(0.2)
OWN = """
from pathlib import Path
from qkd_deploy.data import load_dataset

def wrong():
    return load_dataset("digits").train

def right():
    return load_dataset("digits")

def streamed():
    return load_dataset("imagefolder:photos", workers=0, image_size=8)
"""


def pixels(size: int = 4, count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)


def resized(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images.float(), (size, size), mode="bilinear").round().to(torch.uint8)


def dataset(
    train: Tensor | None = None, labels: Tensor = LABELS, classes: tuple[str, ...] = NAMES, **options: Any
) -> None:
    """Make a data set, and read a batch of it."""
    split = Split(pixels() if train is None else train, labels)
    made = ImageDataset("mine", split, Split(pixels(), labels), classes, **options)
    (images, found), *_ = batches(made.train, 4)
    assert images.shape == (4, 1, 4, 4) and torch.equal(found, labels[:4])


def share_right(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs == labels).float().mean(1)


def scored(metric: Callable[[Any, Tensor], Any]) -> None:
    targets = torch.tensor([[1, 2], [3, 4]])
    assert scores_of(metric, targets + torch.tensor([[0, 0], [0, 1]]), targets).tolist() == [1, 0.5]


def mixed(labels: Tensor = LABELS, size: int = 4, world: int = 1, mixing: Mixing | None = MIXUP) -> None:
    """Read the batches that each process reads."""
    split = Split(pixels(), labels)
    for rank in range(world):
        parts = batches(split, size, torch.Generator().manual_seed(0), None, (rank, world), mixing, 3)
        assert sum(len(images) for images, _ in parts) == len(split) // world


def from_files(folder: Path, name: str, **options: Any) -> None:
    """Open data of a folder with a module of one's own, as if they were too big for memory, and read some."""
    (folder / "ways_of_data.py").write_text(OWN)
    if not (folder / "photos").exists():
        write_tree(folder / "photos", 5)
    with _standing_in(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "MEMORY_BYTES", 0)
        data = load_dataset(name, workers=0, **options)
        assert len(data.train.images_at(torch.arange(3))) == 3


@contextmanager
def _standing_in(folder: Path) -> Iterator[None]:
    path = list(sys.path)
    with chdir(folder):
        yield
    sys.path[:] = path
    sys.modules.pop("ways_of_data", None)


def replaced(folder: Path, *, damaged: bool) -> None:
    """Read images that were damaged, or replaced by good ones."""
    for path in write_tree(folder / "photos", 5).rglob("*.png"):
        path.write_bytes(b"no image" if damaged else path.read_bytes())
    from_files(folder, "imagefolder:photos", image_size=8)


WAYS: dict[str, Way] = {
    "negative mixing": Way(
        lambda p: mixed(mixing=Mixing(mixup=-0.2)),
        "neither can be negative",
        lambda p: [mixed(mixing=Mixing(mixup=0.2)), mixed(mixing=Mixing(0, 0))],
    ),
    "an unknown augmentation": Way(
        lambda p: load_dataset("digits").augmentation_named("cutout"),
        "unknown augmentation",
        lambda p: [
            load_dataset("digits").augmentation_named(name)
            for name in ("auto", "none", "crop", "imagenet", "randaugment")
        ],
        "choose one of auto, none, crop, imagenet, randaugment",
    ),
    "splits of two sizes": Way(
        lambda p: dataset(pixels(8)), "train images are {}, test images", lambda p: dataset(resized(pixels(8), 4))
    ),
    "several targets": Way(
        lambda p: dataset(labels=LABELS[:, None].expand(-1, 2)),
        "give a metric, or one class each",
        lambda p: [dataset(labels=LABELS[:, None].expand(-1, 2), metric=share_right), dataset()],
    ),
    "a class without a name": Way(
        lambda p: dataset(classes=("a", "b")),
        "correct one of them",
        lambda p: [dataset(classes=NAMES), dataset(classes=("a", "b"), labels=LABELS.clamp(max=1))],
    ),
    "damaged images": Way(
        lambda p: replaced(p, damaged=True), "replace the files", lambda p: replaced(p, damaged=False)
    ),
    "batches of nothing": Way(
        lambda p: list(batches(Split(pixels(), LABELS), 0)), "the batch size is", lambda p: mixed(size=1, mixing=None)
    ),
    "mixed targets": Way(
        lambda p: mixed(LABELS[:, None].expand(-1, 2)),
        "leave them out for data with targets",
        lambda p: mixed(LABELS[:, None].expand(-1, 2), mixing=None),
    ),
    "pairs in several processes": Way(
        lambda p: mixed(size=6, world=2),
        "choose a batch size that is a multiple of",
        lambda p: mixed(size=4, world=2),
        "multiple of 4",
    ),
    "a metric that fails": Way(lambda p: scored(lambda x, y: 1 / 0), "failed with", lambda p: scored(share_right)),
    "a metric of other sizes": Way(
        lambda p: scored(lambda x, y: (x == y).float()), "return one score for each", lambda p: scored(share_right)
    ),
    "a metric in percent": Way(
        lambda p: scored(lambda x, y: 100 * share_right(x, y)),
        "scale them, so that 1 is perfect",
        lambda p: scored(lambda x, y: 100 * share_right(x, y) / 100),
    ),
    "arguments of a folder": Way(
        lambda p: from_files(p, "imagefolder:photos", args={"split": "a"}),
        "takes no argument",
        lambda p: from_files(p, "imagefolder:photos"),
    ),
    "a factory of something else": Way(
        lambda p: from_files(p, "ways_of_data:wrong"),
        "must return an ImageDataset",
        lambda p: from_files(p, "ways_of_data:right"),
    ),
    "a size for a factory's files": Way(
        lambda p: from_files(p, "ways_of_data:streamed", image_size=12),
        "so it decides their size",
        lambda p: from_files(p, "ways_of_data:streamed"),
    ),
    "images that are floats": Way(
        lambda p: Split(pixels() / 255, LABELS),
        "images must be uint8",
        lambda p: Split((pixels() / 255 * 255).round().to(torch.uint8), LABELS),
    ),
    "labels that are floats": Way(
        lambda p: Split(pixels(), LABELS.float()),
        "labels must be int64",
        lambda p: Split(pixels(), LABELS.float().to(torch.int64)),
    ),
    "too few labels": Way(
        lambda p: Split(pixels(), LABELS[:5]), "give one label to each image", lambda p: Split(pixels(), LABELS)
    ),
}


def test_all_sentences_are_followed() -> None:
    require_all(WAYS, TEST)


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path, TEST)
