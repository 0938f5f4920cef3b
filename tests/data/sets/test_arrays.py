from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qkd_deploy.data import ImageDataset, load_dataset
from qkd_deploy.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(30) % 3


def opened(folder: Path, number: int = 0, **arrays: Any) -> ImageDataset:
    np.savez(folder / "data.npz", **arrays)
    return load_dataset("data.npz", folder, classes=number)


@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(np.uint8), LABELS[:, None]])
def test_splits_of_both_memory_orders_are_read(labels: np.ndarray, tmp_path: Path) -> None:
    last = opened(tmp_path, x_train=PIXELS, y_train=labels, x_test=PIXELS[:9], y_test=labels[:9])
    first = opened(
        tmp_path, x_train=PIXELS.transpose(0, 3, 1, 2), y_train=labels, x_test=PIXELS[:9].transpose(0, 3, 1, 2),
        y_test=labels[:9],
    )  # fmt: skip
    assert last.fingerprint == first.fingerprint
    assert last.train.image_shape == (3, 6, 5)
    assert torch.equal(last.train.images_at(torch.tensor([4]))[0, 2], torch.from_numpy(PIXELS[4, :, :, 2]))
    assert last.test.labels.tolist() == [0, 1, 2] * 3
    assert last.classes == ("0", "1", "2")
    assert last.known_as == "data.npz"


def test_images_without_a_division_hold_out_every_fifth(tmp_path: Path) -> None:
    data = opened(tmp_path, images=PIXELS[..., 0], labels=LABELS, classes=np.array(["x", "y", "z"]))
    assert data.train.image_shape == (1, 6, 5)
    assert (len(data.train), len(data.test)) == (24, 6)
    assert data.classes == ("x", "y", "z")


def test_labels_may_be_missing(tmp_path: Path) -> None:
    data = opened(tmp_path, 7, images=PIXELS)
    assert not data.train.labelled and not data.test.labelled
    assert len(data.classes) == 7
    with pytest.raises(UserError, match="give it as --classes"):
        opened(tmp_path, images=PIXELS)
    mixed = opened(tmp_path, x_train=PIXELS, x_test=PIXELS, y_test=LABELS)
    assert (mixed.train.labelled, mixed.test.labelled, len(mixed.classes)) == (False, True, 3)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"images": PIXELS / 255, "labels": LABELS}, r"images in data\.npz is float64; write the raw pixels as uint8"),
        ({"images": PIXELS[..., :2], "labels": LABELS}, r"has the shape \[30, 6, 5, 2\]"),
        ({"images": PIXELS, "labels": LABELS / 2}, r"labels in data\.npz is float64 \[30\]; write whole numbers"),
        ({"images": PIXELS, "labels": LABELS[:5]}, "30 images and 5 labels"),
        ({"pictures": PIXELS}, "holds pictures; write x_train, y_train, x_test and y_test, or images and labels"),
        ({"images": PIXELS, "labels": LABELS - 1}, "labels -1"),
        ({"images": PIXELS, "labels": LABELS, "classes": np.array(["a", "b"])}, "2 classes are numbered from 0"),
    ],
)
def test_other_arrays_are_explained(arrays: dict[str, np.ndarray], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        opened(tmp_path, **arrays)
    assert "\n" not in str(caught.value)


def test_damaged_and_missing_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*data\.npz"):
        load_dataset("data.npz", tmp_path)
    (tmp_path / "data.npz").write_bytes(b"no arrays")
    with pytest.raises(UserError, match="holds no plain arrays"):
        load_dataset("data.npz", tmp_path)


def test_images_in_memory_are_brought_to_another_size_and_named_so(tmp_path: Path) -> None:
    data = opened(tmp_path, images=PIXELS, labels=LABELS)
    assert load_dataset("data.npz", tmp_path, image_size=0).fingerprint == data.fingerprint
    large = load_dataset("data.npz", tmp_path, image_size=10)
    assert large.train.image_shape == (3, 10, 10)
    assert large.known_as == "data.npz at 10x10"
    digits = load_dataset("digits", image_size=16)
    assert digits.known_as == "digits at 16x16" and not digits.mirrored
    assert load_dataset("digits", image_size=8).known_as == "digits"
    flat = np.full((30, 8, 4, 3), 9, np.uint8)
    flat[:, 2:6] = 77
    np.savez(tmp_path / "data.npz", images=flat, labels=LABELS)
    middle = load_dataset("data.npz", tmp_path, image_size=8).train.images_at(torch.arange(2))
    assert (middle == 77).all()
