"""Images and masks change together: by the same box and flip, alike for any number of processes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from qkd_deploy.data.augment.with_masks import MaskedCrop
from qkd_deploy.tasks.segmentation import IGNORED


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_pair(count: int, height: int = 12, width: int = 16) -> tuple[Tensor, Tensor]:
    images = torch.randint(256, (count, 3, height, width), generator=generator(1), dtype=torch.uint8)
    return images, torch.randint(5, (count, height, width), generator=generator(2), dtype=torch.uint8)


def test_masks_are_looked_up_as_a_loop_over_pixels_does() -> None:
    images, masks = random_pair(6)
    change = MaskedCrop(scale=(0.5, 2.0), colour=0.0)
    _, changed = change(images, masks, generator())
    numbers = torch.rand((6, 4), generator=generator()).double()
    outside = 0
    for mask, found, (scale, across, down, mirror) in zip(masks, changed, numbers.tolist(), strict=True):
        share = math.exp(-(math.log(0.5) + math.log(4) * scale))
        for row in range(12):
            for column in range(16):
                x = 15 - column if mirror < 0.5 else column
                at_y = math.floor((12 - 12 * share) * down + 12 * share * (row + 0.5) / 12)
                at_x = math.floor((16 - 16 * share) * across + 16 * share * (x + 0.5) / 16)
                inside = 0 <= at_y < 12 and 0 <= at_x < 16
                outside += not inside
                assert found[row, column] == (mask[at_y, at_x] if inside else IGNORED)
    assert outside > 100


def test_masks_stay_on_their_images() -> None:
    """Where an image shows its own mask in large patches, it still does so after any change but at the borders."""
    masks = torch.randint(4, (20, 3, 4), generator=generator(3), dtype=torch.uint8)
    masks = masks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    images = (60 * masks)[:, None].expand(-1, 3, -1, -1).contiguous()
    changed, found = MaskedCrop(scale=(0.5, 2.0), colour=0.0)(images, masks, generator())
    known = found != IGNORED
    assert known.float().mean() > 0.6
    right = (changed[:, 0].float() / 60).round() == found
    assert right[known].float().mean() > 0.9
    assert (changed[:, 0][~known] == 128).float().mean() > 0.9
    assert not torch.equal(found, masks)


def test_masks_at_a_fraction_of_the_size_change_alike() -> None:
    images, masks = random_pair(3)
    whole = masks.repeat_interleave(2, 1).repeat_interleave(2, 2)
    change = MaskedCrop(scale=(1.0, 1.0), colour=0.0)
    assert torch.equal(change(images, masks, generator())[1], change(images, whole, generator())[1][:, ::2, ::2])
    assert change(images, masks[:, ::2], generator())[1].shape == (3, 6, 16)


def test_without_any_change_pairs_stay_as_they_are() -> None:
    images, masks = random_pair(4)
    same = MaskedCrop(scale=(1.0, 1.0), flip=False, colour=0.0)(images, masks, generator())
    assert torch.equal(same[0], images) and torch.equal(same[1], masks)


def test_colours_change_and_masks_do_not() -> None:
    images, masks = random_pair(4)
    changed, found = MaskedCrop(scale=(1.0, 1.0), flip=False, colour=0.3)(images, masks, generator())
    assert torch.equal(found, masks) and not torch.equal(changed, images)


@pytest.mark.parametrize("world", [2, 3])
def test_parts_of_a_batch_see_what_the_whole_would(world: int) -> None:
    images, masks = random_pair(5)
    before = images.clone(), masks.clone()
    whole = MaskedCrop()(images, masks, generator())
    parts = []
    for rank in range(world):
        source, place = generator(), slice(5 * rank // world, 5 * (rank + 1) // world)
        parts.append(MaskedCrop()(images[place], masks[place], source, 5, place))
        after = generator()
        MaskedCrop()(images, masks, after)
        assert torch.equal(source.get_state(), after.get_state())
    assert torch.equal(torch.cat([part[0] for part in parts]), whole[0])
    assert torch.equal(torch.cat([part[1] for part in parts]), whole[1])
    assert torch.equal(images, before[0]) and torch.equal(masks, before[1])
    empty = MaskedCrop()(images[:0], masks[:0], generator(), 5, slice(0, 0))
    assert len(empty[0]) == len(empty[1]) == 0
