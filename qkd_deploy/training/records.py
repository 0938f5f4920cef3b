"""The records in the checkpoints of a run, made from its networks and its data."""

from __future__ import annotations

from torch import nn

from qkd_deploy.checkpoints.checkpoint import Checkpoint
from qkd_deploy.checkpoints.records import ModelRecord, TrainingRecord, dataset_record
from qkd_deploy.data import ImageDataset
from qkd_deploy.graph.placement.settings import QuantizationSettings
from qkd_deploy.training.networks import NetworkSource


def network_checkpoint(
    network: nn.Module,
    source: NetworkSource,
    dataset: ImageDataset,
    training: TrainingRecord,
    quantization: QuantizationSettings | None = None,
) -> Checkpoint:
    """Make the checkpoint of a network.

    Args:
        network: gives the weights; they are not copied.
        source: what makes it anew.
        dataset: the images that it was trained on.
        training: how its weights came about.
        quantization: how it was prepared; None where it is in full precision.
    """
    shape = list(dataset.train.image_shape)
    return Checkpoint(
        state_dict=dict(network.state_dict()),
        model=ModelRecord(source.name, len(dataset.classes), dataset.in_channels, shape, source.args),
        dataset=dataset_record(dataset),
        training=training,
        quantization=quantization,
    )
