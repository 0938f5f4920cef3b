"""A Lightning module that knows nothing of us trains a prepared network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from qkd_deploy import create_model, export_onnx, freeze, initialize, load_dataset, prepare, verify_onnx
from qkd_deploy.data import Split, normalize


class Classifier(lightning.LightningModule):
    """What stands in every tutorial."""

    def __init__(self, network: nn.Module, optimizer: str) -> None:
        super().__init__()
        self.network, self.optimizer = network, optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> Optimizer:
        if self.optimizer == "AdamW":
            return AdamW(self.parameters(), lr=3e-3, weight_decay=0.05)
        return SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("SGD", {"gradient_clip_val": 1.0}),
        ("AdamW", {"accumulate_grad_batches": 2}),
    ],
    ids=["SGD, clipped", "AdamW, accumulated"],
)
def test_a_trainer_trains_exports_and_verifies(optimizer: str, options: dict[str, Any], tmp_path: Path) -> None:
    lightning.seed_everything(0, verbose=False)
    data = load_dataset("digits")
    assert isinstance(data.train, Split) and isinstance(data.test, Split)
    images = normalize(data.train.images)
    prepared = prepare(create_model("plaincnn", 10, 1), "w4a4", (images[:2],), input_quantization=(1 / 64, 128))
    initialize(prepared, images[:256])
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=6, enable_model_summary=False, **quiet, **options
    )
    batches = DataLoader(TensorDataset(images, data.train.labels), batch_size=32, shuffle=True)
    trainer.fit(Classifier(prepared, optimizer), batches)
    prepared.eval()
    export_onnx(prepared, tmp_path / "model.onnx")
    report = verify_onnx(tmp_path / "model.onnx", data=data, frozen=freeze(prepared), prepared=prepared)
    assert report.passed
    right = freeze(prepared)(normalize(data.test.images)).argmax(1) == data.test.labels
    assert float(right.float().mean()) > 0.93
    assert torch.cat([move.detach().flatten() for move in prepared.weight_steps()]).abs().mean() > 1e-4
