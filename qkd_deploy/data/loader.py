"""Load normalised batches from a split, for one process or for one of many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch

from qkd_deploy.data.augment.mixing import Mixing
from qkd_deploy.data.augment.presets import divide_at_decoding
from qkd_deploy.data.augment.transform import Drawn, JointTransform, Transform
from qkd_deploy.data.dataset import AnySplit
from qkd_deploy.data.images.stream import StreamedSplit
from qkd_deploy.data.normalize import normalize
from qkd_deploy.errors import UserError

Pair = tuple[torch.Tensor, torch.Tensor]
_MOST_AT_ONCE, _VALUES_AT_ONCE = 16, 2**23
"""Batches that are made together on an accelerator, and values in them, at most."""


def batches(
    split: AnySplit,
    batch_size: int,
    generator: torch.Generator | None = None,
    augmentation: Transform | JointTransform | None = None,
    shard: tuple[int, int] = (0, 1),
    mixing: Mixing | None = None,
    classes: int = 0,
) -> Iterator[Pair]:
    """Iterate once over ``split``; every image comes exactly once, the last batch may be smaller.

    Args:
        split: where images come from; batches are on its device.
        batch_size: images in a whole batch, at least 1.
        generator: shuffles, and drives augmentation and mixing: its state alone decides what comes. Without it the
            order is that of the split.
        augmentation: applied to the uint8 images of each batch, or to images and targets; needs a generator.
        shard: ``(r, w)`` yields the r-th of w contiguous parts of every batch. The images are those that a single
            process would have seen there; parts of a small last batch may be empty, so that all processes see the
            same number of batches.
        mixing: blends images and labels of neighbours, where the split is labelled; needs a generator.
        classes: number of classes, for ``mixing``.

    Yields:
        float32 images [B, C, H, W], normalised as the split says, and int64 labels [B] (-1 where unlabelled); with
        ``mixing``, probabilities float32 [B, classes].

    Raises:
        UserError: the batch size is below 1, or parts of batches divide images that are put into each other.
        ValueError: an augmentation without a generator.
    """
    rank, world = shard
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; give 1 or more")
    if generator is None and (augmentation is not None or mixing):
        raise ValueError("augmentation is random: pass the generator that drives it")
    if not 0 <= rank < world:
        raise ValueError(f"there is no part {rank} of {world}")
    if mixing:
        _require_pairs(split, batch_size, world)
    _require_groups(_group(augmentation), batch_size, world)
    # generators begin with the first batch; the checks above are done before
    if generator is None:
        return _in_order(split, batch_size, shard)
    return _shuffled(split, batch_size, generator, augmentation, shard, mixing, classes)


def _require_pairs(split: AnySplit, batch_size: int, world: int) -> None:
    """Refuse data and batches whose images cannot be mixed in pairs."""
    if split.labels.dim() != 1:
        raise UserError("mixup and cutmix need one class per image; leave them out for data with targets of their own")
    if world > 1 and batch_size % (2 * world):
        raise UserError(
            f"mixup and cutmix mix pairs, which {world} processes cannot share: a batch of {batch_size} leaves one of "
            f"them an odd number of images; choose a batch size that is a multiple of {2 * world}"
        )


def _group(augmentation: Transform | JointTransform | None) -> int:
    """Count the neighbours that have to stay together."""
    return augmentation.group if isinstance(augmentation, JointTransform) else 1


def _require_groups(group: int, batch_size: int, world: int) -> None:
    if group > 1 and world > 1 and batch_size % (group * world):
        raise UserError(
            f"the augmentation puts {group} images into each other, which {world} processes cannot share in batches of "
            f"{batch_size}; choose a batch size that is a multiple of {group * world}"
        )


def _in_order(split: AnySplit, batch_size: int, shard: tuple[int, int]) -> Iterator[Pair]:
    wholes = torch.split(torch.arange(len(split)), batch_size)
    for images, labels in split.read([whole[_part(len(whole), shard)] for whole in wholes]):
        yield normalize(images, split.normalization), labels


def _shuffled(
    split: AnySplit,
    batch_size: int,
    generator: torch.Generator,
    augmentation: Transform | JointTransform | None,
    shard: tuple[int, int],
    mixing: Mixing | None,
    classes: int,
) -> Iterator[Pair]:
    order = torch.randperm(len(split), generator=generator, device=generator.device)
    wholes = torch.split(order, batch_size)
    places = [_part(len(whole), shard, _group(augmentation)) for whole in wholes]
    at_once = 1 if mixing else _batches_at_once(split, batch_size)
    if at_once > 1 and isinstance(augmentation, Drawn):
        yield from _several_at_once(split, wholes, places, at_once, generator, augmentation)
        return
    pieces = [whole[place] for whole, place in zip(wholes, places, strict=True)]
    read, rest = _reader(split, pieces, places, batch_size, generator, augmentation)
    for whole, place, (images, labels) in zip(wholes, places, read, strict=True):
        if isinstance(rest, JointTransform):
            images, labels = rest(images, labels, generator, len(whole), place)
        elif rest is not None:
            images = rest(images, generator, len(whole), place)
        if mixing:
            images, probabilities = mixing(images, labels.clamp(min=0), classes, generator)
            labels = probabilities if split.labelled else labels
        yield normalize(images, split.normalization), labels


def _batches_at_once(split: AnySplit, batch_size: int) -> int:
    """Count the batches to make together: an accelerator takes longer to start work on small images than to do it."""
    if isinstance(split, StreamedSplit) or split.device.type == "cpu":
        return 1
    channels, height, width = split.image_shape
    return max(1, min(_MOST_AT_ONCE, _VALUES_AT_ONCE // (batch_size * channels * height * width)))


def _several_at_once(
    split: AnySplit,
    wholes: Sequence[torch.Tensor],
    places: Sequence[slice],
    at_once: int,
    generator: torch.Generator,
    augmentation: Drawn,
) -> Iterator[Pair]:
    """Make the same batches from the same random numbers, some of them in one go; an incomplete one on its own."""
    complete = len(wholes) - (len(wholes[-1]) < len(wholes[0]))
    firsts = [*range(0, complete, at_once), *range(complete, len(wholes))]
    for first, end in pairwise([*firsts, len(wholes)]):
        pieces = []
        drawn = []
        for whole, place in zip(wholes[first:end], places[first:end], strict=True):
            pieces.append(whole[place])
            # drawn for the whole batch, whoever holds it, so that the generator advances alike everywhere
            drawn.append([numbers[place] for numbers in augmentation.draw(len(whole), generator)])
        images, labels = next(iter(split.read([torch.cat(pieces)])))
        if len(images):
            images = augmentation.apply(images, *map(torch.cat, zip(*drawn, strict=True)))
        sizes = list(map(len, pieces))
        floats = normalize(images, split.normalization)
        yield from zip(torch.split(floats, sizes), torch.split(labels, sizes), strict=True)


def _reader(
    split: AnySplit,
    pieces: list[torch.Tensor],
    places: list[slice],
    batch_size: int,
    generator: torch.Generator,
    augmentation: Transform | JointTransform | None,
) -> tuple[Iterator[Pair], Transform | JointTransform | None]:
    """Read the images of all pieces; returns the part of the augmentation that is not done yet, too."""
    if isinstance(augmentation, JointTransform):
        return split.read(pieces), augmentation
    crop, rest = divide_at_decoding(augmentation)
    if not isinstance(split, StreamedSplit) or crop is None:
        return split.read(pieces), augmentation
    # Drawn in the order of the images for all of them, since files are read ahead.
    (numbers,) = crop.draw(len(split), generator)
    parts = [part[place] for part, place in zip(torch.split(numbers, batch_size), places, strict=True)]
    return split.read(pieces, crop, parts), rest


def _part(count: int, shard: tuple[int, int], group: int = 1) -> slice:
    """Find where one of the parts of ``count`` images begins and ends; no group of neighbours is divided."""
    rank, world = shard
    groups = -(-count // group)
    return slice(groups * rank // world * group, min(groups * (rank + 1) // world * group, count))
