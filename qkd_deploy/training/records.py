"""The records in the checkpoints of a run, made from its settings and its data."""

from __future__ import annotations

from torch import nn

from qkd_deploy.checkpoints.checkpoint import Checkpoint
from qkd_deploy.checkpoints.records import ModelRecord, QuantizationRecord, TrainingRecord, dataset_record
from qkd_deploy.data import ImageDataset
from qkd_deploy.distill.phases import Role
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.networks import source_of


def quantization_record(config: TrainConfig, dataset: ImageDataset) -> QuantizationRecord:
    """Say how a run quantizes its student for the images of a data set."""
    return QuantizationRecord(
        bits=config.bits,
        overrides=config.bits_for,
        placement=config.placement,
        residual=config.residual,
        first_last_bits=config.first_last_bits,
        weight_range=config.weight_range,
        # With this step the 8-bit input code is the raw pixel.
        input_scale=1.0 / dataset.std,
        input_zero_point=int(dataset.mean),
        quantizer=config.quantizer,
    )


def network_checkpoint(
    network: nn.Module,
    role: Role,
    config: TrainConfig,
    dataset: ImageDataset,
    training: TrainingRecord,
    quantization: QuantizationRecord | None = None,
) -> Checkpoint:
    """Make the checkpoint of a network.

    Args:
        network: gives the weights; they are not copied.
        role: its part in the run, by which the settings say what makes it anew.
        config: of the run.
        dataset: the images that it was trained on.
        training: how its weights came about.
        quantization: how it was prepared; None where it is in full precision.
    """
    source = source_of(config, role)
    shape = list(dataset.train.image_shape)
    return Checkpoint(
        state_dict=dict(network.state_dict()),
        model=ModelRecord(source.name, len(dataset.classes), dataset.in_channels, shape, source.args),
        dataset=dataset_record(dataset),
        training=training,
        quantization=quantization,
    )
