"""``masks:PATH``: images with masks of class numbers, in the usual layouts of folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from os.path import relpath
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qkd_deploy.data.augment.with_masks import MaskedCrop
from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.images.decode import Unreadable, View
from qkd_deploy.data.images.masks import MaskView, Numbers, mask_view, numbers_in, values_of
from qkd_deploy.data.sets.assemble import Options, Parts, in_view, view_of
from qkd_deploy.data.sets.files import Files
from qkd_deploy.data.sets.held_out import divided
from qkd_deploy.data.sets.mask_arguments import mask_arguments
from qkd_deploy.data.sets.mask_classes import ClassTable, Numbering, class_table, ignored_numbers, numbering
from qkd_deploy.data.sets.mask_layout import Pairs, find_layout
from qkd_deploy.errors import UserError
from qkd_deploy.tasks.segmentation import IGNORED, SEGMENTATION

MEMORY_BYTES = 2**33
"""Masks stay in memory, all of them; more than 8 GiB are refused."""


def masks_folder(path: Path, options: Options, args: Mapping[str, Any]) -> ImageDataset:
    """Open a folder of images and masks; see `find_layout` for how they may lie.

    Args:
        path: the folder.
        options: size of the images and so on.
        args: ``ignore``, ``scale``, ``size``, ``names`` and ``held_out``; see `MaskArguments`.

    Raises:
        UserError: there is no such folder, it holds no pairs, or numbers in masks are those of no class.
    """
    name = f"masks:{path.resolve().name}"
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; give the one that holds images and masks after 'masks:'")
    arguments = mask_arguments(name, args, options)
    table = class_table(path, arguments.names)
    ignored = ignored_numbers(arguments.ignore, table)
    layout = find_layout(path, arguments.held_out)
    pairs = [layout.train] if layout.test is None else [layout.train, layout.test]
    remarks = _lonely(path, pairs, strict=options.strict)
    images, masks = (
        _files(path, [file for part in pairs for file in getattr(part, what)]) for what in ("images", "masks")
    )
    if not len(images) or (layout.test is not None and not layout.test.images):
        raise UserError(f"{path} has no image with a mask of the same name (a PNG file) in every part; rename them")
    view = arguments.applied(view_of(name, images, torch.arange(len(images)), options, wanted=arguments.size))
    found = _decoded(name, images, masks, view, table, options)
    remarks += _problems(masks, found.problems, strict=options.strict)
    numbers = numbering(name, found.values, table, options.classes, ignored)
    _renumber(found, numbers)
    parts = _parts(name, torch.from_numpy(found.masks), sorted(found.problems), pairs, numbers.classes)
    remarks += numbers.remarks
    dataset = in_view(name, images, parts, view, options, remarks, SEGMENTATION)
    return replace(dataset, augmentation=MaskedCrop())


def _files(root: Path, paths: Iterable[Path]) -> Files:
    return Files(root, tuple(Path(relpath(path, root)).as_posix() for path in paths))


def _lonely(root: Path, pairs: Iterable[Pairs], *, strict: bool) -> list[str]:
    """Say which files have no other half.

    Raises:
        UserError: there are some, and the user is strict.
    """
    lonely = [path for part in pairs for path in part.lonely]
    if not lonely:
        return []
    first = Path(relpath(lonely[0], root)).as_posix()
    if strict:
        raise UserError(
            f"{first} has no image or no mask of the same name beside it; add that, or leave out --strict (strict in "
            "Python)"
        )
    return [f"{len(lonely)} images without masks, or masks without images, are left out, first {first}"]


@dataclass
class _Found:
    """Masks as files hold them.

    Attributes:
        masks: numbers uint8 [N, H, W].
        shown: the rows and columns of each that are no border.
        problems: why some cannot be used.
        values: the numbers that occur, each with a file that has it.
    """

    masks: Numbers
    shown: dict[int, tuple[slice, slice]]
    problems: dict[int, str]
    values: dict[int, str]


def _decoded(name: str, images: Files, masks: Files, view: View, table: ClassTable, options: Options) -> _Found:
    size = len(masks) * view.height * view.width
    if size > MEMORY_BYTES:
        raise UserError(
            f"the masks of {name} take {size / 1e9:.1f} GB in memory; make them smaller by the argument scale or size"
        )
    over = mask_view(view)
    found = _Found(np.zeros((len(masks), view.height, view.width), dtype=np.uint8), {}, {}, {})

    def decode(index: int) -> tuple[Numbers, tuple[slice, slice], list[int]] | str:
        try:
            return _one_mask(images, masks, index, over, table)
        except Unreadable as error:
            return str(error)

    # Pillow decodes outside of the interpreter's lock.
    with ThreadPoolExecutor(max(1, options.workers)) as pool:
        for index, result in enumerate(pool.map(decode, range(len(masks)))):
            if isinstance(result, str):
                found.problems[index] = result
                continue
            found.masks[index], found.shown[index], values = result
            for value in values:
                found.values.setdefault(value, masks.name_of(index))
    return found


def _one_mask(
    images: Files, masks: Files, index: int, view: MaskView, table: ClassTable
) -> tuple[Numbers, tuple[slice, slice], list[int]]:
    mask = masks.open(index)
    expected = mask.size
    with suppress(Unreadable):  # of the image, which is said when it is read
        expected = images.size_of(index)
    if mask.size != expected:
        raise Unreadable("{}x{} for an image of {}x{}".format(*mask.size, *expected))
    numbers = numbers_in(mask, masks.name_of(index), table.colours)
    return view.of_mask(numbers), view.within(mask.size), values_of(numbers)


def _renumber(found: _Found, numbers: Numbering) -> None:
    """Turn numbers of files into class numbers; borders stay ignored, where 255 is a class, too."""
    table = numbers.table()
    for index, place in found.shown.items():
        labels = np.full(found.masks[index].shape, IGNORED, dtype=np.uint8)
        labels[place] = table[found.masks[index][place]]
        found.masks[index] = labels


def _problems(masks: Files, problems: Mapping[int, str], *, strict: bool) -> list[str]:
    """Say which masks cannot be used.

    Raises:
        UserError: there are some, and the user is strict, or there are no others.
    """
    if not problems:
        return []
    first, reason = min(problems.items())
    named = f"{masks.name_of(first)} ({reason})"
    if strict:
        raise UserError(f"cannot use the mask {named}; replace it, or leave out --strict (strict in Python)")
    if len(problems) == len(masks):
        raise UserError(f"none of the {len(masks)} masks can be used, such as {named}; replace the files")
    return [f"{len(problems)} of {len(masks)} masks cannot be used and are left out with their images, first {named}"]


def _parts(name: str, masks: torch.Tensor, unusable: list[int], pairs: list[Pairs], classes: tuple[str, ...]) -> Parts:
    """Divide the images as their publisher did, or hold out every fifth one."""
    usable = torch.ones(len(masks), dtype=torch.bool)
    usable[unusable] = False
    numbers = torch.where(usable)[0]
    if len(pairs) == 1:
        train, test = (numbers[part] for part in divided(name, torch.zeros_like(numbers)))
    else:
        border = len(pairs[0].images)
        train, test = numbers[numbers < border], numbers[numbers >= border]
    return Parts(masks, train, test, classes)
