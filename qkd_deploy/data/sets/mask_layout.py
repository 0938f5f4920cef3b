"""Find images and their masks in the usual layouts of folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qkd_deploy.data.sets.files import image_files, read_lines
from qkd_deploy.data.sets.image_folder import HELD_OUT_FOLDERS
from qkd_deploy.errors import UserError, hint_at

TRAIN_FOLDERS = ("train", "training")
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "JPEGImages", "leftImg8bit")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "annots", "annot", "SegmentationClass", "gtFine")
MASK_SUFFIXES = ("annot", "_annot", "_labels", "_masks", "labels", "masks")
"""What follows the name of a folder of images in that of their masks: CamVid's train and trainannot."""
_VOC_LISTS = Path("ImageSets") / "Segmentation"
_IMAGE_ENDS = ("_leftImg8bit", "_image", "_img")
_MASK_ENDS = (
    "",
    "_gtFine_labelTrainIds",
    "_gtFine_labelIds",
    "_mask",
    "_label",
    "_labels",
    "_annot",
    "_seg",
    "_gt",
    "_L",
)
"""What stands behind the name that an image and its mask share, the best one first."""


@dataclass(frozen=True)
class Pairs:
    """Images with their masks, of one part of a data set.

    Attributes:
        images, masks: files, in a fixed order.
        lonely: what is without its other half: images without masks, and masks without images.
    """

    images: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    lonely: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Layout:
    """The two parts of a data set; no held-out one where the publisher made no division."""

    train: Pairs
    test: Pairs | None


def find_layout(root: Path, held_out: str) -> Layout:
    """Find images and masks below ``root``.

    Known are ``train/images`` with ``train/masks``; ``images/train`` with ``masks/train``; ``train`` with
    ``trainannot`` or ``train_labels``; Pascal VOC's ``JPEGImages``, ``SegmentationClass`` and
    ``ImageSets/Segmentation/*.txt``; and ``images`` with ``masks`` that are not divided. Folders may have any of the
    names above.

    Args:
        root: the data set's folder.
        held_out: the part to hold out, such as "test"; "" takes the first of `HELD_OUT_FOLDERS` that is there.

    Raises:
        UserError: there are none, or there is no such part.
    """
    parts = _voc_parts(root) or _divided_parts(root)
    train = next((parts[name] for name in TRAIN_FOLDERS if name in parts), None)
    if train is None:
        whole = _both(root)
        if whole is None or parts:
            raise UserError(
                f"{root} holds no images with masks in a known layout; name the folders train/images and train/masks, "
                "or images and masks"
            )
        if held_out:
            raise UserError(f"{root} is not divided into parts, so that {held_out!r} is none; leave held_out out")
        return Layout(_paired(*whole), None)
    return Layout(train(), _held_out(root, parts, held_out))


Parts = dict[str, Callable[[], Pairs]]
"""How the files of each part are found, by its name."""


def _held_out(root: Path, parts: Parts, wanted: str) -> Pairs | None:
    others = [name for name in parts if name not in TRAIN_FOLDERS]
    if wanted and wanted not in others:
        known = ", ".join(others) or "none"
        raise UserError(
            f"{root} has no part {wanted!r} with images and masks to hold out{hint_at(wanted, others)}; parts: {known}"
        )
    chosen = wanted or next((name for name in (*HELD_OUT_FOLDERS, *others) if name in others), "")
    return parts[chosen]() if chosen else None


def _voc_parts(root: Path) -> Parts:
    """Read the lists of Pascal VOC, where there are some."""
    folder = root / _VOC_LISTS
    parts: Parts = {}
    if not folder.is_dir():
        return parts
    images, masks = (_by_name(root / name) for name in ("JPEGImages", "SegmentationClass"))
    for path in sorted(folder.glob("*.txt")):
        names = list(dict.fromkeys(line.split()[0] for line in read_lines(path)))
        missing = next((name for name in names if name not in images and name not in masks), None)
        if missing is not None:
            raise UserError(f"{path} names {missing!r}, of which there is no file; correct the list, or add the file")
        own = [{name: files[name] for name in names if name in files} for files in (images, masks)]
        parts[path.stem] = partial(_joined, *own)
    return parts


def _divided_parts(root: Path) -> Parts:
    """Find folders of images and of masks by the part's name."""
    parts: Parts = {}
    names = [entry.name for entry in _folders(root)]
    for name in names:
        both = _both(root / name) or _beside(root, name, names)
        if both is not None:
            parts[name] = partial(_paired, *both)
    outer = _both(root)
    if not parts and outer is not None:
        inner = {entry.name for entry in _folders(outer[0])} & {entry.name for entry in _folders(outer[1])}
        known = {*TRAIN_FOLDERS, *HELD_OUT_FOLDERS}
        parts.update({name: partial(_paired, outer[0] / name, outer[1] / name) for name in sorted(inner & known)})
    return parts


def _beside(root: Path, name: str, names: Sequence[str]) -> tuple[Path, Path] | None:
    masks = next((name + suffix for suffix in MASK_SUFFIXES if name + suffix in names), None)
    return None if masks is None else (root / name, root / masks)


def _both(folder: Path) -> tuple[Path, Path] | None:
    """Find a folder of images and one of masks in ``folder``."""
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    masks = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)
    return None if images is None or masks is None else (images, masks)


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    return list(image_files(folder)) if folder.is_dir() else []


def _paired(images: Path, masks: Path) -> Pairs:
    """Pair the files of two folders by their paths from there, without suffixes."""
    return _joined(_by_name(images), _by_name(masks))


def _by_name(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in _files(folder)}


def _joined(images: Mapping[str, Path], masks: Mapping[str, Path]) -> Pairs:
    """Pair images with masks by name; further masks of an image that has one, such as coloured ones, are no news."""
    # JPEG changes the numbers: such files among masks are pictures of them.
    masks = {name: path for name, path in masks.items() if path.suffix.lower() == ".png"}
    chosen = {name: next((mask for mask in _mask_names(name) if mask in masks), None) for name in images}
    pairs = [(images[name], masks[mask]) for name, mask in chosen.items() if mask is not None]
    shared = {_shared(name) for name, mask in chosen.items() if mask is not None}
    lonely = [images[name] for name, mask in chosen.items() if mask is None]
    lonely += [path for name, path in masks.items() if not shared.intersection(_beginnings(name))]
    return Pairs(tuple(image for image, _ in pairs), tuple(mask for _, mask in pairs), tuple(lonely))


def _shared(name: str) -> str:
    """Take the part of an image's name that its mask has, too."""
    end = next((end for end in _IMAGE_ENDS if name.endswith(end)), "")
    return name.removesuffix(end)


def _mask_names(name: str) -> Iterator[str]:
    """Give the names that the mask of an image may have, the best one first."""
    for end in _MASK_ENDS:
        yield from dict.fromkeys((name + end, _shared(name) + end))


def _beginnings(name: str) -> Iterator[str]:
    """Give a mask's name and what is left of it without its last parts, which underscores begin."""
    while name:
        yield name
        name = name.rpartition("_")[0]
