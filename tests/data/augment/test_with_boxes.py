"""Images that are moved, mirrored and put together keep their boxes around their objects."""

from __future__ import annotations

import pytest
import torch

from qkd_deploy.data import ImageDataset, Split, batches
from qkd_deploy.data.augment.colour import ColourJitter
from qkd_deploy.data.augment.crop_and_flip import UNCHANGED
from qkd_deploy.data.augment.joint import JointChain
from qkd_deploy.data.augment.mosaic import Mosaic
from qkd_deploy.data.augment.transform import JointTransform
from qkd_deploy.data.augment.visible_boxes import seen_within
from qkd_deploy.data.augment.with_boxes import BoxedMove, usual_with_boxes
from qkd_deploy.errors import UserError
from qkd_deploy.tasks.detection.task import DETECTION

SIZE = 48
KINDS: dict[str, JointTransform] = {
    "move": BoxedMove(),
    "mosaic": Mosaic(share=0.7),
    "all": usual_with_boxes(),
    "all with mosaic": usual_with_boxes().variants["mosaic"],
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scenes(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """White rectangles of their own on black images, and their boxes; image ``i`` has the class ``i``."""
    generator = seeded(seed)
    images = torch.zeros(count, 3, SIZE, SIZE, dtype=torch.uint8)
    targets = torch.zeros(count, 2, 6)
    targets[:, 1, 0] = -1
    for number in range(count):
        x, y = torch.randint(SIZE - 20, (2,), generator=generator).tolist()
        wide, high = torch.randint(8, 20, (2,), generator=generator).tolist()
        images[number, :, y : y + high, x : x + wide] = 255
        targets[number, 0] = torch.tensor([number, x, y, x + wide, y + high, number % 2])
    return images, targets


def real(targets: torch.Tensor) -> list[list[float]]:
    assert (targets[targets[:, 0] < 0] == torch.tensor([-1.0, 0, 0, 0, 0, 0])).all()
    return [row for row in targets.tolist() if row[0] >= 0]


def test_moved_boxes_enclose_their_objects() -> None:
    images, targets = scenes(64)
    shown, moved = BoxedMove()(images, targets, seeded())
    seen = 0
    for image, rows in zip(shown, moved, strict=True):
        white = image[0] > 184  # above the middle of grey and white
        for _, x1, y1, x2, y2, _ in real(rows):
            down, across = torch.where(white)
            place = [int(across.min()), int(down.min()), int(across.max()) + 1, int(down.max()) + 1]
            assert max(abs(a - b) for a, b in zip(place, (x1, y1, x2, y2), strict=True)) <= 1.5
            seen += 1
        if not real(rows):
            assert white.sum() < 60
    assert seen > 50
    assert moved[:, 0, 5].sum() > 20  # crowds stay crowds


def test_the_border_is_the_grey_of_letterboxed_images() -> None:
    images, targets = scenes(16)
    shown, _ = BoxedMove(scale=(0.5, 0.5), shift=0.0)(images, targets, seeded())
    assert (shown[:, :, : SIZE // 4 - 1] == 114).all() and (shown[:, :, SIZE // 4 + 1 : SIZE // 2] != 114).any()


def test_a_move_that_changes_nothing_keeps_every_pixel_and_box() -> None:
    images, targets = scenes(8)
    shown, moved = BoxedMove(scale=(1.0, 1.0), shift=0.0, flip=False)(images, targets, seeded())
    assert torch.equal(shown, images) and torch.allclose(moved, targets, atol=1e-4)


def test_about_half_of_the_images_are_mirrored_exactly() -> None:
    images, targets = scenes(64)
    shown, moved = BoxedMove(scale=(1.0, 1.0), shift=0.0)(images, targets, seeded())
    mirrored = torch.tensor([not torch.equal(a, b) for a, b in zip(shown, images, strict=True)])
    assert 20 < mirrored.sum() < 44
    assert torch.equal(shown[mirrored], images[mirrored].flip(3))
    assert torch.allclose(moved[mirrored, 0, 1], SIZE - targets[mirrored, 0, 3], atol=1e-4)


def test_mosaics_show_the_boxes_of_four_images() -> None:
    images, targets = scenes(32)
    shown, together = Mosaic(share=1.0)(images, targets, seeded())
    assert together.shape == (32, 8, 6)
    found = 0
    for number, (image, rows) in enumerate(zip(shown, together, strict=True)):
        padding = [row[0] < 0 for row in rows.tolist()]
        assert padding == sorted(padding)  # boxes first
        for label, x1, y1, x2, y2, crowd in real(rows):
            assert int(label) // 4 == number // 4 and crowd == int(label) % 2
            inside = image[0, round(y1) + 1 : round(y2) - 1, round(x1) + 1 : round(x2) - 1]
            assert (inside == 255).all()  # without its edge, where pixels are mixed
            found += 1
        labels = [int(row[0]) for row in real(rows)]
        assert len(set(labels)) == len(labels)
    assert 60 < found < 128


def test_an_incomplete_four_is_no_mosaic() -> None:
    images, targets = scenes(7)
    shown, together = Mosaic(share=1.0)(images, targets, seeded())
    assert torch.equal(shown[4:], images[4:]) and torch.equal(together[4:, :2], targets[4:])
    assert not torch.equal(shown[:4], images[:4])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("world", [2, 3])
def test_processes_see_together_what_one_sees(name: str, world: int) -> None:
    """Also of an incomplete last batch: here 24 and 13 images."""
    split = Split(*scenes(37))
    whole = list(batches(split, 24, seeded(3), KINDS[name]))
    parts = [list(batches(split, 24, seeded(3), KINDS[name], shard=(rank, world))) for rank in range(world)]
    for number, (images, targets) in enumerate(whole):
        assert torch.equal(torch.cat([part[number][0] for part in parts]), images)
        assert torch.equal(torch.cat([part[number][1] for part in parts]), targets)


@pytest.mark.parametrize("name", KINDS)
def test_images_and_targets_stay_as_they_are_and_empty_batches_are_none(name: str) -> None:
    images, targets = scenes(8)
    kept = images.clone(), targets.clone()
    first = KINDS[name](images, targets, seeded())
    again = KINDS[name](images, targets, seeded())
    assert torch.equal(images, kept[0]) and torch.equal(targets, kept[1])
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    nothing, none = KINDS[name](images[:0], targets[:0], seeded(), 8, slice(8, 8))
    assert len(nothing) == len(none) == 0
    assert first[0].dtype == torch.uint8 and first[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("corners", "left"),
    [
        ([-5.0, 2, 5, 6], [0.0, 2, 5, 6]),
        ([-95.0, 2, 5, 6], None),  # a twentieth of its area
        ([-9.0, 2, 1.5, 6], None),  # less than two pixels
        ([20.0, 20, 30, 30], None),
        ([1.0, 1, 2, 9], None),
    ],
)
def test_boxes_of_which_too_little_is_seen_become_padding(corners: list[float], left: list[float] | None) -> None:
    targets = torch.tensor([[[1.0, 3, 3, 5, 5, 1], [-1, 0, 0, 0, 0, 0]]])
    moved = torch.tensor([[corners, [0.0, 0, 9, 9]]])
    found = seen_within(targets, moved, torch.tensor([[0, 0, 16, 16]]))
    assert real(found[0]) == ([] if left is None else [[1, *left, 1]])


def test_processes_that_cannot_share_fours_are_told_what_they_can() -> None:
    split, mosaic = Split(*scenes(24)), usual_with_boxes().variants["mosaic"]
    with pytest.raises(UserError, match=r"4 images into each other.*; choose a batch size that is a multiple of 8"):
        batches(split, 12, seeded(), mosaic, shard=(0, 2))
    assert len(next(batches(split, 16, seeded(), mosaic, shard=(0, 2)))[0]) == 8
    assert len(next(batches(split, 10, seeded(), mosaic))[0]) == 10
    with pytest.raises(ValueError, match="within four"):
        Mosaic()(split.images[:4], split.labels[:4], seeded(), 24, slice(2, 6))


def test_augmentations_of_boxes_have_names() -> None:
    task = DETECTION
    names = ("0", "1", "2")
    data = ImageDataset("x", Split(*scenes(3)), Split(*scenes(3)), names, augmentation=usual_with_boxes(), task=task)
    assert data.augmentation_named("auto") is data.augmentation and data.augmentation_named("none") is UNCHANGED
    mosaic = data.augmentation_named("mosaic")
    assert isinstance(mosaic, JointTransform) and mosaic.group == 4
    with pytest.raises(UserError, match="use auto or none or mosaic"):
        data.augmentation_named("crop")


def test_a_chain_changes_images_alone_too() -> None:
    images, targets = scenes(4)
    chain = JointChain((ColourJitter(0.5), BoxedMove(scale=(1.0, 1.0), shift=0.0, flip=False)))
    shown, moved = chain(images, targets, seeded())
    assert not torch.equal(shown, images) and torch.allclose(moved, targets, atol=1e-4)
    assert chain.group == 1 and JointChain((chain, Mosaic())).group == 4
