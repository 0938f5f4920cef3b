"""Batches: every image once, in an order that the generator alone decides, alone or several at a time."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from qkd_deploy.data import CropAndFlip, Split, batches, loader, normalize
from qkd_deploy.errors import UserError


def random_images(count: int, channels: int, height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def numbered_split(count: int = 10) -> Split:
    """Image ``i`` is filled with ``i`` and has the label ``i``."""
    numbers = torch.arange(count)
    return Split(numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(count, 1, 2, 2).contiguous(), numbers)


def test_batches_without_a_generator_keep_the_order() -> None:
    split = numbered_split()
    parts = list(batches(split, 4))
    assert [len(labels) for _, labels in parts] == [4, 4, 2]
    assert torch.equal(torch.cat([images for images, _ in parts]), normalize(split.images))
    assert torch.equal(torch.cat([labels for _, labels in parts]), split.labels)


def test_shuffled_batches_hold_every_image_once_with_its_label() -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = map(torch.cat, zip(*batches(numbered_split(), 3, generator), strict=True))
    assert torch.equal(labels.sort().values, torch.arange(10))
    assert not torch.equal(labels, torch.arange(10))
    assert torch.equal(images[:, 0, 0, 0] * 64 + 128, labels.float())
    again = torch.cat([part for _, part in batches(numbered_split(), 3, torch.Generator().manual_seed(0))])
    following = torch.cat([part for _, part in batches(numbered_split(), 3, generator)])
    assert torch.equal(labels, again)
    assert not torch.equal(labels, following)


def test_batches_apply_the_augmentation() -> None:
    shifted = CropAndFlip(pad=1, flip=False, fill=255)
    images, _ = next(batches(numbered_split(), 10, torch.Generator().manual_seed(0), shifted))
    assert images.max() == (255 - 128) / 64


def test_impossible_batches_are_refused_at_once() -> None:
    with pytest.raises(UserError, match="batch size is 0"):
        batches(numbered_split(), 0)
    with pytest.raises(ValueError, match="generator"):
        batches(numbered_split(), 1, augmentation=CropAndFlip(pad=1, flip=False))


@pytest.mark.parametrize("shard", [(0, 1), (1, 3)])
@pytest.mark.parametrize("size", [4, 7, 20, 50])
def test_batches_made_several_at_once_are_the_same(
    size: int, shard: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Split(random_images(50, 3, 6, 6, seed=1), torch.arange(50))

    def run(at_once: int) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        monkeypatch.setattr(loader, "_batches_at_once", lambda *_: at_once)
        generator = torch.Generator().manual_seed(3)
        made = list(batches(split, size, generator, CropAndFlip(2, flip=True), shard))
        return made, generator.get_state()

    (one_by_one, state), (several, other) = run(1), run(3)
    assert torch.equal(state, other)
    for (images, labels), (others, their_labels) in zip(one_by_one, several, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, their_labels)


def test_no_random_number_is_drawn_for_an_incomplete_batch_before_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split(random_images(50, 3, 6, 6, seed=1), torch.arange(50))
    states = []
    for at_once in (1, 16):
        monkeypatch.setattr(loader, "_batches_at_once", lambda *_, n=at_once: n)
        generator = torch.Generator().manual_seed(3)
        complete = islice(batches(split, 8, generator, CropAndFlip(2, flip=True)), 6)
        assert sum(len(images) for images, _ in complete) == 48
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_only_small_images_on_accelerators_are_made_together() -> None:
    def at_once(side: int, device: str) -> int:
        split = Split(
            torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device), torch.zeros(1, dtype=torch.int64)
        )
        return loader._batches_at_once(split, 128)

    assert at_once(32, "cpu") == 1
    assert [at_once(side, "meta") for side in (32, 64, 224)] == [16, 5, 1]
