"""Crops and flips: every result is one of the slowly defined crops, all come about, and a seed decides which."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_deploy.data import CropAndFlip

SHIFT = CropAndFlip(pad=4, flip=True)


def random_images(count: int, channels: int, height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def crops(image: torch.Tensor, pad: int, flip: bool, fill: int) -> list[torch.Tensor]:
    """All crops, one by one, by slicing: the slow definition of what `CropAndFlip` may return."""
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
    result = CropAndFlip(pad, flip, fill)(images, torch.Generator().manual_seed(seed))
    assert result.dtype == torch.uint8
    assert torch.equal(images, original)
    for before, after in zip(images, result, strict=True):
        assert any(torch.equal(after, crop) for crop in crops(before, pad, flip, fill))


def test_all_places_and_both_directions_come_about_equally_often() -> None:
    images = random_images(1, 3, 6, 6, seed=1).expand(7200, 3, 6, 6)
    result = CropAndFlip(pad=1, flip=True)(images, torch.Generator().manual_seed(2))
    counts = [sum(torch.equal(after, crop) for after in result[:1800]) for crop in crops(images[0], 1, True, 128)]
    assert len(counts) == 18
    assert min(counts) > 60  # expected 100, standard deviation 10
    assert sum(counts) == 1800


def test_same_seed_same_images_and_the_generator_advances() -> None:
    images = random_images(32, 3, 8, 8, seed=3)
    generator = torch.Generator().manual_seed(4)
    first, second = SHIFT(images, generator), SHIFT(images, generator)
    assert torch.equal(first, SHIFT(images, torch.Generator().manual_seed(4)))
    assert not torch.equal(first, second)


def test_global_random_state_is_neither_read_nor_changed() -> None:
    images = random_images(8, 3, 8, 8, seed=5)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = SHIFT(images, torch.Generator().manual_seed(6))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(first, SHIFT(images, torch.Generator().manual_seed(6)))
