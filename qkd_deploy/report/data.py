"""The held-out images of a run, where they are to be had without importing code that only a file names."""

from __future__ import annotations

from collections.abc import Collection

from qkd_deploy.data import ImageDataset
from qkd_deploy.data.registry import is_own_code
from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import Metadata
from qkd_deploy.pixels.normalization import Normalization
from qkd_deploy.pixels.preprocessing import Preprocessing
from qkd_deploy.report.findings import Gap
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.run_data import dataset_of
from qkd_deploy.workflows.export import Trained


def data_of_run(
    config: TrainConfig, given: Collection[str], trained: Trained | None, metadata: Metadata | None
) -> ImageDataset | Gap:
    """Open the data set of a run, resized and normalised as its network or its file expects it.

    Args:
        config: the settings of the run, with what the user gave in their place.
        given: names of settings that the user gave.
        trained: the network; None before training has ended.
        metadata: of the exported file, which then says how images are resized; None without one.

    Raises:
        UserError: images that the user named cannot be read.
    """
    for name, code in (("dataset", is_own_code(config.dataset)), ("task", ":" in config.task)):
        if code and name not in given:
            value = getattr(config, name)
            told = f"The images come from code, {value}, which is imported only where you name it"
            return Gap(f"{told}: add --{name} {value}.")
    if metadata is not None:
        recorded, classes = dict(metadata.preprocessing or {}), len(metadata.classes or ())
    elif trained is not None:
        recorded, classes = trained.checkpoint.dataset.evaluation, trained.checkpoint.model.num_classes
    else:
        recorded, classes = {}, 0
    expected = Preprocessing(**{key: recorded.get(key) for key in ("interpolation", "crop_pct", "fit")})
    try:
        dataset = dataset_of(config, classes, expected)
        if trained is None:
            return dataset
        return dataset.normalized(Normalization.of_entry(trained.checkpoint.dataset.normalization))
    except UserError as error:
        if given:
            raise
        return Gap(f"The images cannot be read: {error}.")
