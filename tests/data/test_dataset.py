from __future__ import annotations

import time

import pytest
import torch

from qkd_deploy.data import CropAndFlip, ImageDataset, Split, load_dataset, normalize
from qkd_deploy.errors import UserError


def split(count: int = 6, size: int = 4, classes: int = 3) -> Split:
    images = torch.arange(count * size * size, dtype=torch.uint8).view(count, 1, size, size)
    return Split(images, torch.arange(count) % classes)


def dataset(name: str = "mine", train: Split | None = None) -> ImageDataset:
    return ImageDataset(name, train or split(), split(3), ("a", "b", "c"))


def test_every_pixel_value_is_normalised_exactly() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    exact = (pixels.double() - 128) / 64
    assert torch.equal(normalize(pixels).double(), exact)
    assert torch.equal((normalize(pixels) / (1 / 64)).round() + 128, pixels.float())


def test_fingerprint_sees_one_pixel_one_label_and_the_order() -> None:
    base = dataset().fingerprint
    assert base == dataset().fingerprint
    assert len(base) == 16
    images, labels = split().images.clone(), split().labels.clone()
    images[5, 0, 3, 3] += 1
    assert dataset(train=Split(images, split().labels)).fingerprint != base
    labels[0] = 1
    assert dataset(train=Split(split().images, labels)).fingerprint != base
    assert dataset(train=Split(split().images.flip(0), split().labels.flip(0))).fingerprint != base


def test_fingerprint_distinguishes_shapes_with_the_same_bytes() -> None:
    tall = Split(split().images.view(6, 1, 8, 2), split().labels)
    other = ImageDataset("mine", tall, Split(split(3).images.view(3, 1, 8, 2), split(3).labels), ("a", "b", "c"))
    assert other.fingerprint != dataset().fingerprint


def test_fingerprint_of_60000_images_takes_less_than_a_second() -> None:
    part = Split(torch.zeros(30_000, 3, 32, 32, dtype=torch.uint8), torch.zeros(30_000, dtype=torch.int64))
    images = ImageDataset("mine", part, part, ("only",))
    start = time.process_time()
    assert images.fingerprint
    assert time.process_time() - start < 1


def test_unknown_data_under_a_published_name_is_called_a_copy() -> None:
    for name in ("cifar10", "cifar100", "digits", "cifar10-jpeg"):
        copy = dataset(name)
        assert copy.known_as == f"{name} (copy {copy.fingerprint})"
    assert dataset("mine").known_as == "mine"


def test_a_part_of_the_digits_is_a_copy() -> None:
    digits = load_dataset("digits")
    part = ImageDataset("digits", digits.train.head(100), digits.test, digits.classes)
    assert part.known_as.startswith("digits (copy ")


def test_device_change_keeps_everything() -> None:
    moved = dataset().to("cpu")
    assert moved.fingerprint == dataset().fingerprint
    assert moved.augmentation == CropAndFlip(pad=0, flip=False)


@pytest.mark.parametrize(
    ("images", "labels", "complaint"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), "images must be uint8"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "images must be uint8"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2), "labels must be int64"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "2 images and 3 labels"),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), "0 images"),
    ],
)
def test_wrong_splits_are_refused(images: torch.Tensor, labels: torch.Tensor, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Split(images, labels)


def test_labels_without_a_class_and_mixed_sizes_are_refused() -> None:
    with pytest.raises(UserError, match=r"labels 0\.\.2"):
        ImageDataset("mine", split(), split(), ("a", "b"))
    with pytest.raises(UserError, match="labels -1"):
        ImageDataset("mine", Split(split().images, split().labels - 1), split(), ("a", "b", "c"))
    with pytest.raises(UserError, match="resize one"):
        ImageDataset("mine", split(size=4), split(size=8), ("a", "b", "c"))
