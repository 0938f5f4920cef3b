"""Colours, geometry, RandAugment and mixing of uint8 batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_deploy.data import Chain, ColourJitter, CropAndFlip, Mixing, RandAugment, ResizedCrop, Transform, load_dataset
from qkd_deploy.data.augment.crop_and_flip import UNCHANGED
from qkd_deploy.data.augment.geometry import affine
from qkd_deploy.data.augment.presets import divide_at_decoding, preset
from qkd_deploy.data.augment.rand_augment import OPERATIONS
from qkd_deploy.errors import UserError

TRANSFORMS: list[Transform] = [
    CropAndFlip(2, flip=True),
    ResizedCrop(),
    ColourJitter(),
    RandAugment(),
    RandAugment(layers=1, magnitude=1.0),
    Chain((ResizedCrop(), CropAndFlip(0, flip=True), ColourJitter(), RandAugment())),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int, channels: int = 3, height: int = 8, width: int = 8, seed: int = 1) -> torch.Tensor:
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=seeded(seed))


@settings(max_examples=40)
@given(
    transform=st.sampled_from(TRANSFORMS),
    shape=st.tuples(st.integers(1, 9), st.sampled_from([1, 3]), st.integers(2, 9), st.integers(2, 9)),
    first=st.integers(0, 9),
    last=st.integers(0, 9),
)
def test_a_part_of_a_batch_sees_what_the_whole_sees(
    transform: Transform, shape: tuple[int, int, int, int], first: int, last: int
) -> None:
    images = random_images(*shape)
    original = images.clone()
    place = slice(min(first, shape[0]), last)
    generators = seeded(3), seeded(3)
    whole = transform(images, generators[0])
    part = transform(images[place], generators[1], shape[0], place)
    assert whole.dtype == torch.uint8 and whole.shape == images.shape
    assert torch.equal(images, original)
    assert torch.equal(part, whole[place])
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_the_identity_map_and_a_whole_crop_keep_every_pixel() -> None:
    images = random_images(4, height=5, width=7)
    maps = torch.eye(2, 3).repeat(4, 1, 1)
    assert torch.equal(affine(images, maps), images)
    assert torch.equal(ResizedCrop(area=(1.0, 1.0), ratio=1.0)(images[:, :, :, :5], seeded()), images[:, :, :, :5])


def test_a_shifted_map_shows_grey_outside_or_repeats_the_border() -> None:
    images = random_images(2, height=4, width=4)
    maps = torch.eye(2, 3).repeat(2, 1, 1)
    maps[:, 0, 2] = 1.0  # half the width: two columns
    assert torch.equal(affine(images, maps)[..., :2], images[..., 2:])
    assert (affine(images, maps)[..., 2:] == 128).all()
    assert torch.equal(affine(images, maps, padding="border")[..., 2:], images[..., 3:].expand(2, 3, 4, 2))


@given(
    numbers=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    height=st.integers(1, 500),
    width=st.integers(1, 500),
)
def test_boxes_lie_within_the_image_and_have_the_drawn_area(numbers: list[float], height: int, width: int) -> None:
    crop = ResizedCrop(area=(0.25, 1.0))
    left, top, right, bottom = crop.boxes(torch.tensor([numbers]), height, width)[0].tolist()
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    share = (right - left) * (bottom - top) / (height * width)
    wanted = 0.25 + 0.75 * numbers[0]
    assert share <= wanted * 1.001
    if right - left < width and bottom - top < height:
        assert share == pytest.approx(wanted, rel=1e-2)
        assert 0.74 < (right - left) / (bottom - top) < 1.34


def test_an_opposite_crop_shows_the_opposite_corner() -> None:
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    images[:, :, 4:, 4:] = 200
    crop = ResizedCrop(area=(0.25, 0.25), ratio=1.0)
    assert (crop.apply(images, torch.tensor([[0.5, 0.5, 1.0, 1.0]]))[:, :, 1:, 1:] == 200).all()
    assert (crop.apply(images, torch.tensor([[0.5, 0.5, 0.0, 0.0]]))[:, :, :-1, :-1] == 0).all()


def test_colour_factors_do_what_they_say() -> None:
    images = random_images(3)
    jitter = ColourJitter()
    assert torch.equal(jitter.apply(images, torch.ones(3, 3)), images)
    dark = jitter.apply(images, torch.tensor([[0.5, 1.0, 1.0]] * 3))
    assert torch.equal(dark, (images.float() * 0.5).round().to(torch.uint8))
    grey = jitter.apply(images, torch.tensor([[1.0, 1.0, 0.0]] * 3))
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 1], grey[:, 2])
    flat = jitter.apply(images, torch.tensor([[1.0, 0.0, 1.0]] * 3))
    assert (flat == flat[:, :1, :1, :1]).all()


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_of_no_strength_change_nothing(number: int, channels: int) -> None:
    images = random_images(4, channels)
    images[:, :, 0, 0], images[:, :, 0, 1] = 0, 255
    assert torch.equal(OPERATIONS[number](images, torch.zeros(4)), images)


@pytest.mark.parametrize("number", range(1, len(OPERATIONS)))
def test_operations_of_full_strength_change_something(number: int) -> None:
    images = random_images(4) // 2
    assert not torch.equal(OPERATIONS[number](images, torch.tensor([1.0, -1.0, 1.0, -1.0])), images)


def test_a_turn_by_one_strength_and_back_is_near_the_start() -> None:
    ramp = torch.arange(16, dtype=torch.uint8).mul(16).view(1, 1, 1, 16).expand(1, 1, 16, 16).contiguous()
    there = OPERATIONS[1](ramp, torch.ones(1))
    back = OPERATIONS[1](there, -torch.ones(1))
    middle = slice(5, 11)
    difference = back[..., middle, middle].int() - ramp[..., middle, middle].int()
    assert difference.abs().max() <= 4
    assert (there[..., middle, middle].int() - ramp[..., middle, middle].int()).abs().max() > 4


def test_rand_augment_leaves_images_apart() -> None:
    """An image is changed by its own operation, whatever is drawn for the others."""
    images = random_images(5)
    chosen, strengths = torch.tensor([[9], [10], [0], [1], [11]]), torch.full((5, 1), 0.7)
    together = RandAugment(layers=1).apply(images, chosen, strengths)
    alone = [RandAugment(layers=1).apply(images[i : i + 1], chosen[i : i + 1], strengths[i : i + 1]) for i in range(5)]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together[2], images[2])


@given(count=st.integers(1, 9), mixup=st.sampled_from([0.0, 0.3, 2.0]), cutmix=st.sampled_from([0.0, 1.0]))
def test_mixed_labels_are_the_shares_of_the_pixels(count: int, mixup: float, cutmix: float) -> None:
    labels = torch.arange(count)
    images = (labels * 25).to(torch.uint8).view(-1, 1, 1, 1).expand(count, 1, 16, 16).contiguous()
    mixed, shares = Mixing(mixup, cutmix)(images, labels, count, seeded(count))
    assert mixed.dtype == torch.uint8 and shares.shape == (count, count)
    assert torch.allclose(shares.sum(dim=1), torch.ones(count))
    expected = shares @ (labels * 25.0)
    assert (mixed.float().mean(dim=(1, 2, 3)) - expected).abs().max() <= 0.5 + 1e-3
    partner = (labels ^ 1).clamp(max=count - 1)
    assert (shares.gather(1, labels[:, None]) + shares.gather(1, partner[:, None]) >= 1 - 1e-5).all()


def test_both_ways_of_mixing_come_about() -> None:
    images, labels = random_images(4, 1, 16, 16), torch.arange(4)
    kinds = set()
    for seed in range(20):
        mixed, _ = Mixing(1.0, 1.0)(images, labels, 4, seeded(seed))
        kept = (mixed[0] == images[0]) | (mixed[0] == images[1])
        kinds.add("box" if kept.all() else "blend")
    assert kinds == {"box", "blend"}
    with pytest.raises(UserError, match="neither can be negative"):
        Mixing(mixup=-1)


def test_presets() -> None:
    digits = load_dataset("digits")
    assert digits.augmentation_named("auto") == digits.augmentation_named("crop") == digits.augmentation
    assert digits.augmentation_named("none") == UNCHANGED
    assert digits.augmentation_named("randaugment") == Chain((digits.augmentation, RandAugment()))
    imagenet = digits.augmentation_named("imagenet")
    assert imagenet == Chain((ResizedCrop(), CropAndFlip(0, flip=False), ColourJitter()))
    assert preset("crop", UNCHANGED, 32, mirrored=True) == CropAndFlip(4, flip=True)
    large = preset("randaugment", UNCHANGED, 224, mirrored=True)
    assert large == Chain((ResizedCrop(), CropAndFlip(0, flip=True), RandAugment()))
    with pytest.raises(UserError, match="unknown augmentation 'cutout'; choose one of auto, none"):
        digits.augmentation_named("cutout")


def test_streams_take_the_resized_crop_off_the_front() -> None:
    crop, flip = ResizedCrop(), CropAndFlip(0, flip=True)
    assert divide_at_decoding(Chain((crop, flip))) == (crop, Chain((flip,)))
    assert divide_at_decoding(crop) == (crop, None)
    assert divide_at_decoding(Chain((flip, crop))) == (None, Chain((flip, crop)))
    assert divide_at_decoding(None) == (None, None)
