"""The origin of an exported file: what its metadata say about the checkpoint that it was made from."""

from __future__ import annotations

from typing import Any

from qkd_deploy.checkpoints.checkpoint import Checkpoint
from qkd_deploy.checkpoints.records import ModelRecord, TrainingRecord, dataset_record
from qkd_deploy.data import ImageDataset
from qkd_deploy.tasks.classification import CLASSIFICATION


def origin(checkpoint: Checkpoint, digest: str) -> dict[str, Any]:
    """Describe a quantized checkpoint, whose file has that SHA-256, as keyword arguments of ``Metadata``."""
    dataset, training = checkpoint.dataset, checkpoint.training
    return {
        "normalization": dataset.normalization,
        "preprocessing": dataset.evaluation or None,
        "classes": tuple(dataset.classes),
        "checkpoint_sha256": digest,
        "accuracy": {
            "dataset": dataset.known_as,
            "fingerprint": dataset.fingerprint,
            "images": training.images,
            "integer": training.accuracy,
            **_measure(training),
        },
    }


def _measure(training: TrainingRecord) -> dict[str, str]:
    """Name the figure where it is not the accuracy of a classifier."""
    measure = next(iter(training.figures), CLASSIFICATION.measure)
    return {} if measure == CLASSIFICATION.measure else {"measure": measure}


def longest_origin(dataset: ImageDataset) -> dict[str, Any]:
    """Make an origin as long as any checkpoint's for these data: for files that are measured before there is one."""
    training = TrainingRecord("", 0, 0, 99.99999999999999, len(dataset.test), {dataset.measure: 99.99999999999999})
    nothing = ModelRecord("", 0, 0, [])
    return origin(Checkpoint({}, nothing, dataset_record(dataset), training), "0" * 64)
