"""Assemble a data set with boxes: find the images' sizes, clean the boxes, and place them as the images are placed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from qkd_deploy.data.augment.with_boxes import usual_with_boxes
from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.images.decode import Unreadable, View
from qkd_deploy.data.images.placement import Integers
from qkd_deploy.data.sets.assemble import Options, Parts, in_view, view_of
from qkd_deploy.data.sets.detection.boxes import Boxes, usable
from qkd_deploy.data.sets.detection.problems import Problems
from qkd_deploy.data.sets.detection.targets import targets_of
from qkd_deploy.data.sets.files import Files
from qkd_deploy.data.sets.held_out import divided
from qkd_deploy.errors import UserError
from qkd_deploy.tasks.detection.task import DETECTION

_OTHER_SIZE = "images have another size than their labels say; their own one counts"


@dataclass(frozen=True)
class Part:
    """Images with boxes: one split, or all images.

    Attributes:
        names: of the image files, from the root of the data set.
        boxes: of these images, by their numbers here.
        declared: widths and heights that the labels tell, int64 [N, 2]; 0 where they tell none.
    """

    names: tuple[str, ...]
    boxes: Boxes
    declared: Integers

    @classmethod
    def of(cls, names: Iterable[str], boxes: Boxes, declared: Iterable[tuple[int, int]] | None = None) -> Part:
        """Make a part, by default one whose labels tell no sizes."""
        listed = tuple(names)
        sizes = np.zeros((len(listed), 2), np.int64) if declared is None else np.array([*declared], np.int64)
        return cls(listed, boxes, sizes.reshape(-1, 2))

    def where(self, kept: npt.NDArray[np.bool_]) -> Part:
        """Keep some images alone, bool [N]."""
        names = tuple(name for name, there in zip(self.names, kept, strict=True) if there)
        return Part(names, self.boxes.of_images(kept), self.declared[kept])


def boxed(
    name: str,
    root: Path,
    parts: Sequence[Part],
    classes: tuple[str, ...],
    options: Options,
    problems: Problems,
    *,
    relative: bool = False,
    remarks: Iterable[str] = (),
) -> ImageDataset:
    """Assemble a data set of images with boxes.

    Args:
        name: of the data set.
        root: folder that the images' names start from.
        parts: training and held-out images; or all, of which every fifth with and without objects is held out.
        classes: class names.
        options: the user's.
        problems: found so far.
        relative: corners are shares of width and height.
        remarks: sentences about the files, for the user.

    Raises:
        UserError: images or boxes that can be used are missing; problems, with ``strict``; or as `in_view`.
    """
    _require_whole(name, options)
    read = [_measured(root, part, problems) for part in parts]
    _require_images(name, read, problems)
    source = Files(root, tuple(n for part in read for n in part.names))
    sizes = np.concatenate([part.declared for part in read])
    joined = _joined(read)
    in_pixels = joined.scaled(sizes) if relative else joined
    boxes = usable(in_pixels, sizes, source.names, len(classes), problems)
    train, test = _division(name, [len(part.names) for part in read], boxes)
    for images, purpose in ((train, "to train on"), (test, "in its held-out images")):
        if not np.isin(boxes.image, images.numpy()).any():
            reason = f" ({problems.first})" if problems.first else ""
            raise UserError(f"{name} has no box {purpose}{reason}; label objects there, or check the path")
    view = view_of(name, source, torch.cat([train, test]), options, fit="letterbox")
    targets = targets_of(boxes, sizes, view, name)
    known = (*remarks, *problems.notes, *_unseen(classes, targets[train]))
    dataset = in_view(name, source, Parts(targets, train, test, classes), view, options, known, DETECTION)
    return replace(dataset, augmentation=usual_with_boxes())


def _require_whole(name: str, options: Options) -> None:
    if options.fit == View.fit:
        raise UserError(
            f"{name} has boxes anywhere, of which --fit crop would cut some away; take letterbox or stretch"
        )


def _measured(root: Path, part: Part, problems: Problems) -> Part:
    """Read the sizes of all images, whatever is declared; those that cannot be read are left out."""
    files = Files(root, part.names)
    sizes = np.zeros((len(files), 2), np.int64)
    for index in range(len(files)):
        try:
            sizes[index] = own = files.size_of(index)
            if part.declared[index].all() and own != tuple(part.declared[index]):
                problems.note(_OTHER_SIZE, part.names[index])
        except Unreadable as error:
            problems.add("images that cannot be read", f"{part.names[index]} ({error})")
    there = sizes[:, 0] > 0
    return replace(part, declared=sizes).where(there)


def _require_images(name: str, parts: list[Part], problems: Problems) -> None:
    if not all(part.names for part in parts):
        kind = "held-out" if parts[0].names else "training"
        reason = f" ({problems.first})" if problems.first else ""
        raise UserError(f"{name} has no {kind} image that can be read{reason}; check the path and the files")


def _division(name: str, counts: list[int], boxes: Boxes) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the numbers of training and held-out images among all; both get images with and without objects."""
    if len(counts) == 1:
        return divided(name, torch.from_numpy(np.isin(np.arange(counts[0]), boxes.image).astype(np.int64)))
    return torch.arange(counts[0]), torch.arange(counts[0], sum(counts))


def _joined(parts: list[Part]) -> Boxes:
    """Number the images of all parts one after the other."""
    columns, before = [], 0
    for part in parts:
        columns.append((part.boxes.image + before, part.boxes.label, part.boxes.corners, part.boxes.crowd))
        before += len(part.names)
    return Boxes(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def _unseen(classes: tuple[str, ...], targets: torch.Tensor) -> tuple[str, ...]:
    """Name the classes without any object to train on."""
    seen = Counter(targets[:, :, 0].flatten().long().tolist())
    missing = [label for number, label in enumerate(classes) if number not in seen]
    if not missing:
        return ()
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    return (f"{len(missing)} of {len(classes)} classes have no training objects: {shown}",)
