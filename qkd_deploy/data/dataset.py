"""An image data set: two splits of uint8 images with labels, class names, and an identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from qkd_deploy.data.augment.crop_and_flip import UNCHANGED
from qkd_deploy.data.augment.presets import preset
from qkd_deploy.data.augment.transform import JointTransform, Transform
from qkd_deploy.data.fingerprint import fingerprint_of, known_name
from qkd_deploy.data.images.stream import StreamedSplit
from qkd_deploy.data.metric import Metric, OwnMetric
from qkd_deploy.data.split import Split
from qkd_deploy.errors import UserError
from qkd_deploy.pixels.normalization import Normalization
from qkd_deploy.tasks.classification import CLASSIFICATION
from qkd_deploy.tasks.task import Score, Task

AnySplit = Split | StreamedSplit


@dataclass(frozen=True)
class ImageDataset:
    """Two splits of images with labels, in memory or read from files as they are needed.

    Attributes:
        name: the name the user asks for, such as "cifar10".
        train, test: the two splits; images of both have the same [C, H, W].
        classes: class names; label ``i`` means ``classes[i]``.
        augmentation: random changes in training that keep the images' meaning; none by default. Those of a task
            whose targets have places change images and targets together.
        mirrored: a mirrored image means the same (not for digits and letters).
        task: the kind of problem, which says what labels are.
        metric: scores networks that are no classifiers; None counts right classes. Its mean over all samples takes the
            place of accuracy, in percent.
        metric_name: the name of that mean.
        remarks: what the user should know about the data, in sentences.
        original: the fingerprint of the publisher's data, where the files were checked to be theirs; "" elsewhere.
        evaluation: how evaluation resizes and crops image files where not as usual: "interpolation", "crop_pct".

    Raises:
        UserError: the splits' shapes differ, or a label has no class name.
    """

    name: str
    train: AnySplit
    test: AnySplit
    classes: tuple[str, ...]
    augmentation: Transform | JointTransform = UNCHANGED
    mirrored: bool = True
    metric: Metric | None = None
    metric_name: str = "accuracy"
    remarks: tuple[str, ...] = ()
    original: str = ""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    task: Task = CLASSIFICATION

    def __post_init__(self) -> None:
        shapes = [split.image_shape for split in (self.train, self.test)]
        if shapes[0] != shapes[1]:
            raise UserError(f"data set {self.name}: train images are {shapes[0]}, test images {shapes[1]}; resize one")
        for split in (self.train, self.test):
            if self.metric is None and split.labelled:
                self.task.check_targets(split.labels, self.classes, self.name)

    def score(self) -> Score:
        """Begin a measurement: by the data set's own metric where it has one, else as its task measures."""
        return self.task.score() if self.metric is None else OwnMetric(self.metric, self.metric_name)

    @property
    def measure(self) -> str:
        """The name of the figure that stands in the place of accuracy."""
        return self.task.measure if self.metric is None else self.metric_name

    @property
    def normalization(self) -> Normalization:
        """What networks take the pixels of both splits as; ``(pixel - 128) / 64`` unless said otherwise."""
        return self.train.normalization

    def normalized(self, normalization: Normalization) -> ImageDataset:
        """The same images for networks that take them as another normalisation says.

        Raises:
            UserError: it is for another number of channels.
        """
        normalization.for_channels(self.in_channels)
        train, test = (replace(split, normalization=normalization) for split in (self.train, self.test))
        return replace(self, train=train, test=test)

    @property
    def in_channels(self) -> int:
        """Number of channels of an image."""
        return self.train.image_shape[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user: remarks, and what was found in the files so far."""
        found = dict.fromkeys((*self.train.notes, *self.test.notes))
        return (*self.remarks, *found)

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of a SHA-256 over both splits, in order.

        Over all pixels and labels of images in memory; over names, sizes and labels of images that are read from files.
        """
        return fingerprint_of(*self.train.identity(), *self.test.identity())

    @property
    def known_as(self) -> str:
        """The name to write in results: it tells a copy from the original by its fingerprint."""
        return self.name if self.fingerprint == self.original else known_name(self.name, self.fingerprint)

    def augmentation_named(self, name: str) -> Transform | JointTransform:
        """Look up the augmentation "auto" (the data set's own), "none", "crop", "imagenet", "randaugment" or "mosaic".

        Raises:
            UserError: an unknown name, or one that changes images without their targets.
        """
        if isinstance(self.augmentation, JointTransform):
            known: dict[str, Transform | JointTransform] = {
                "auto": self.augmentation,
                "none": UNCHANGED,
                **self.augmentation.variants,
            }
            if name not in known:
                raise UserError(
                    f"--augmentation {name} would move what the targets of {self.name} point at; use "
                    f"{' or '.join(known)}"
                )
            return known[name]
        return preset(name, self.augmentation, self.train.image_shape[1], mirrored=self.mirrored)

    def to(self, device: torch.device | str) -> ImageDataset:
        """Move images in memory, and batches of streamed ones, to a device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))
