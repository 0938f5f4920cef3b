from __future__ import annotations

import sys
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_deploy.data import Augmentation, Split, batches, normalize
from qkd_deploy.data.augment.augment import augment
from qkd_deploy.errors import UserError

BATCHES = sys.modules["qkd_deploy.data.batches"]  # the package's attribute of that name is the function


def random_images(count: int, channels: int, height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def crops(image: torch.Tensor, pad: int, flip: bool, fill: int) -> list[torch.Tensor]:
    """All crops, one by one, by slicing: the slow definition of what `augment` may return."""
    _, height, width = image.shape
    padded = F.pad(image, (pad,) * 4, value=fill)
    places = [(top, left) for top in range(2 * pad + 1) for left in range(2 * pad + 1)]
    plain = [padded[:, top : top + height, left : left + width] for top, left in places]
    return plain + [crop.flip(2) for crop in plain] if flip else plain


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    pad=st.integers(0, 3),
    flip=st.booleans(),
    fill=st.integers(0, 255),
    seed=st.integers(0, 2**31),
)
def test_every_image_is_a_crop_of_its_padded_self(
    shape: tuple[int, int, int, int], pad: int, flip: bool, fill: int, seed: int
) -> None:
    images = random_images(*shape, seed)
    original = images.clone()
    result = augment(images, torch.Generator().manual_seed(seed), pad, flip, fill)
    assert result.dtype == torch.uint8
    assert torch.equal(images, original)
    for before, after in zip(images, result, strict=True):
        assert any(torch.equal(after, crop) for crop in crops(before, pad, flip, fill))


def test_all_places_and_both_directions_come_about_equally_often() -> None:
    images = random_images(1, 3, 6, 6, seed=1).expand(7200, 3, 6, 6)
    result = augment(images, torch.Generator().manual_seed(2), pad=1)
    counts = [sum(torch.equal(after, crop) for after in result[:1800]) for crop in crops(images[0], 1, True, 128)]
    assert len(counts) == 18
    assert min(counts) > 60  # expected 100, standard deviation 10
    assert sum(counts) == 1800


def test_same_seed_same_images_and_the_generator_advances() -> None:
    images = random_images(32, 3, 8, 8, seed=3)
    generator = torch.Generator().manual_seed(4)
    first, second = augment(images, generator), augment(images, generator)
    assert torch.equal(first, augment(images, torch.Generator().manual_seed(4)))
    assert not torch.equal(first, second)


def test_global_random_state_is_neither_read_nor_changed() -> None:
    images = random_images(8, 3, 8, 8, seed=5)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = augment(images, torch.Generator().manual_seed(6))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(first, augment(images, torch.Generator().manual_seed(6)))


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
    shifted = Augmentation(pad=1, flip=False, fill=255)
    images, _ = next(batches(numbered_split(), 10, torch.Generator().manual_seed(0), shifted))
    assert images.max() == (255 - 128) / 64


def test_impossible_batches_are_refused_at_once() -> None:
    with pytest.raises(UserError, match="batch size is 0"):
        batches(numbered_split(), 0)
    with pytest.raises(ValueError, match="generator"):
        batches(numbered_split(), 1, augmentation=Augmentation(pad=1, flip=False))


@pytest.mark.parametrize("shard", [(0, 1), (1, 3)])
@pytest.mark.parametrize("size", [4, 7, 20, 50])
def test_batches_made_several_at_once_are_the_same(
    size: int, shard: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Split(random_images(50, 3, 6, 6, seed=1), torch.arange(50))

    def run(at_once: int) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        monkeypatch.setattr(BATCHES, "_batches_at_once", lambda *_: at_once)
        generator = torch.Generator().manual_seed(3)
        made = list(batches(split, size, generator, Augmentation(2, flip=True), shard))
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
        monkeypatch.setattr(BATCHES, "_batches_at_once", lambda *_, n=at_once: n)
        generator = torch.Generator().manual_seed(3)
        complete = islice(batches(split, 8, generator, Augmentation(2, flip=True)), 6)
        assert sum(len(images) for images, _ in complete) == 48
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_only_small_images_on_accelerators_are_made_together() -> None:
    def at_once(side: int, device: str) -> int:
        split = Split(
            torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device), torch.zeros(1, dtype=torch.int64)
        )
        return BATCHES._batches_at_once(split, 128)

    assert at_once(32, "cpu") == 1
    assert [at_once(side, "meta") for side in (32, 64, 224)] == [16, 5, 1]
