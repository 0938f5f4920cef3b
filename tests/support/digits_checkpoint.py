"""A checkpoint of a small network of the digits with random weights, as a training run would have left it."""

from __future__ import annotations

from pathlib import Path

from deployment import deploy, noise

from qkd_deploy import create_model
from qkd_deploy.checkpoints.checkpoint import Checkpoint, save_checkpoint
from qkd_deploy.checkpoints.records import DatasetRecord, ModelRecord, TrainingRecord
from qkd_deploy.pixels.normalization import CENTERED


def save_digits(path: Path, bits: str = "w4a4") -> None:
    network = create_model("plaincnn", num_classes=10, in_channels=1).eval()
    deployed = deploy(network, (noise(8, 1, 8, 8),), bits, normalization="centered")
    saved = Checkpoint(
        state_dict=dict(deployed.prepared.state_dict()),
        model=ModelRecord("plaincnn", 10, 1, [1, 8, 8]),
        dataset=DatasetRecord("digits", "digits", "0123456789abcdef", [*"0123456789"], CENTERED.as_entry()),
        training=TrainingRecord("qat", 1, 0, 50.0, 8),
        quantization=deployed.prepared.settings,
    )
    save_checkpoint(path, saved)
