"""The data of a run: splits on the device, what training does to their images, and how networks are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from qkd_deploy.checkpoints.checkpoint import load_checkpoint
from qkd_deploy.data import ImageDataset, load_dataset, normalize
from qkd_deploy.data.augment.mixing import Mixing
from qkd_deploy.data.augment.transform import JointTransform, Transform
from qkd_deploy.data.dataset import AnySplit
from qkd_deploy.distill.phases import Role
from qkd_deploy.errors import UserError
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.pixels.preprocessing import Preprocessing
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.distribution import Processes
from qkd_deploy.training.expectations import Expectations, expectations, named_in
from qkd_deploy.training.groups import DataSource
from qkd_deploy.training.loop.batches import BatchStream
from qkd_deploy.training.loop.evaluate import as_deployed, figures_of
from qkd_deploy.training.networks import NetworkSource, sources_of

_FEWEST = 2
"""Training images: batch norms take no statistics of one."""


@dataclass(frozen=True)
class RunData:
    """A data set on the device of a run.

    Attributes:
        dataset: the data set.
        augmentation: applied to training batches, or None.
        mixing: mixes pairs of training images, or None.
        expected: what the networks expect of the images, as which they are normalised.
    """

    dataset: ImageDataset
    augmentation: Transform | JointTransform | None
    mixing: Mixing | None
    expected: Expectations

    @property
    def train(self) -> AnySplit:
        """The training images."""
        return self.dataset.train

    @property
    def test(self) -> AnySplit:
        """The held-out images."""
        return self.dataset.test

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks about the files for the user, such as how many were skipped."""
        return self.dataset.notes

    @property
    def measurable(self) -> bool:
        """True where held-out images have labels."""
        return self.test.labelled

    @property
    def measure(self) -> str:
        """The name of the measure that ``score`` gives."""
        if not self.measurable:
            return "agreement with the teacher"
        return self.dataset.measure

    def some_images(self, count: int, seed: int) -> Tensor:
        """Read normalised training images [count, C, H, W] that ``seed`` chooses, the same ones in every process."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
        return normalize(self.train.images_at(order[:count]), self.train.normalization)

    def stream(self, batch_size: int, seed: int, shard: tuple[int, int]) -> BatchStream:
        """Make the stream of training batches, of which this process gets its shard."""
        return BatchStream(
            self.train,
            batch_size,
            self.augmentation,
            seed,
            shard=shard,
            mixing=self.mixing,
            classes=len(self.dataset.classes),
            collate=self.dataset.task.collate,
        )

    def score(
        self, network: nn.Module, limit: int, processes: Processes | None, teacher: nn.Module | None = None
    ) -> float:
        """Give the first of the ``figures``, which stands for the rest."""
        return next(iter(self.figures(network, limit, processes, teacher).values()))

    def figures(
        self, network: nn.Module, limit: int, processes: Processes | None, teacher: nn.Module | None = None
    ) -> dict[str, float]:
        """Measure ``network`` in percent on ``limit`` held-out images (0: all), a prepared one frozen.

        Args:
            network: what is measured.
            limit: number of images.
            processes: that measure together, or None for this one alone.
            teacher: decides where images have no labels.
        """
        measured, images = network, self.test
        if isinstance(network, PreparedModel):
            measured, images = as_deployed(network, self.test)
        return figures_of(
            measured,
            images,
            task=self.dataset.task,
            score=self.dataset.score(),
            judge=None if self.measurable else teacher,
            limit=limit or None,
            processes=processes,
        )


def load_run_data(config: TrainConfig, device: torch.device) -> RunData:
    """Load and check the data of a run.

    Raises:
        UserError: they cannot be loaded, or lack the labels that the run needs.
    """
    dataset, expected = images_for(config, sources_of(config), config.classes or _classes_of_teacher(config))
    if len(dataset.train) < _FEWEST:
        raise UserError(f"{config.dataset} has {len(dataset.train)} training image; training needs {_FEWEST} or more")
    dataset = dataset.to(device)
    if not dataset.train.labelled:
        _require_label_free(config)
    elif not dataset.test.labelled and not config.uses_teacher:
        raise UserError(
            f"the held-out images of {config.dataset} have no labels, and --method {config.method} has no teacher to "
            "agree with; give them labels, or leave them out, so that a share of the training images is held out"
        )
    mixing = Mixing(config.mixup, config.cutmix)
    return RunData(dataset, dataset.augmentation_named(config.augmentation), mixing if mixing else None, expected)


def images_for(
    source: DataSource, networks: Mapping[Role, NetworkSource], classes: int = 0
) -> tuple[ImageDataset, Expectations]:
    """Load the data set that the settings name, pre-processed as the networks expect it.

    Args:
        source: the settings.
        networks: where the networks come from, by role.
        classes: as for ``dataset_of``.

    Raises:
        UserError: it cannot be loaded, or a normalisation does not fit it.
    """
    expected = expectations(source, networks)
    dataset = dataset_of(source, classes, expected.images)
    expected = expected.fitting(dataset)
    return dataset.normalized(expected.normalization), expected


def dataset_of(source: DataSource, classes: int = 0, expected: Preprocessing | None = None) -> ImageDataset:
    """Load the data set that the settings name; its pixels are not yet those of any network.

    Args:
        source: the settings.
        classes: their number where neither unlabelled data nor the settings tell.
        expected: how image files are resized and cropped where the settings leave it open.

    Raises:
        UserError: it cannot be loaded.
    """
    wanted = named_in(source).otherwise(expected or Preprocessing())
    return load_dataset(
        source.dataset,
        None if source.data_dir is None else Path(source.data_dir),
        image_size=source.image_size,
        workers=source.workers,
        strict=source.strict,
        classes=source.classes or classes,
        interpolation=wanted.interpolation or "bilinear",
        crop_pct=wanted.crop_pct or 0.0,
        fit=wanted.fit or "",
        input_range=source.input_range,
        task=source.task,
        args=source.dataset_args,
    )


def _classes_of_teacher(config: TrainConfig) -> int:
    """Read the number of classes in the teacher's checkpoint; 0 where there is none, or it holds weights alone."""
    if config.teacher_checkpoint is None:
        return 0
    try:
        return load_checkpoint(config.teacher_checkpoint).model.num_classes
    except UserError:  # a file that cannot be used at all is reported where its weights are read
        return 0


def _require_label_free(config: TrainConfig) -> None:
    """Refuse what needs labels for unlabelled images."""
    if any(phase.needs_labels for phase in config.training_phases()):
        raise UserError(
            f"{config.dataset} has no labels, which --method {config.method} needs; use --method sqakd with a trained "
            f"teacher, --teacher {config.model}:FILE"
        )
    if config.teacher_checkpoint is None:
        raise UserError(
            f"{config.dataset} has no labels to train a teacher on; give a trained one, --teacher {config.model}:FILE"
        )
    if config.mixup or config.cutmix:
        raise UserError(f"mixup and cutmix mix labels, and {config.dataset} has none; leave them out")
