"""A checkpoint says which quantizers its network has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qkd_deploy.calibration.one_batch import initialize
from qkd_deploy.checkpoints.checkpoint import Checkpoint, load_checkpoint, prepare_student, rebuild, save_checkpoint
from qkd_deploy.checkpoints.records import DatasetRecord, ModelRecord, TrainingRecord
from qkd_deploy.checkpoints.torch_file import save_tensors
from qkd_deploy.errors import UserError
from qkd_deploy.graph.integer.freeze import freeze
from qkd_deploy.graph.placement.settings import NetworkBits
from qkd_deploy.models import create_model
from qkd_deploy.pixels.normalization import CENTERED
from qkd_deploy.quantizers.registry import QUANTIZERS

IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def checkpoint(quantizer: str) -> Checkpoint:
    torch.manual_seed(0)
    record = NetworkBits().quantization(CENTERED, quantizer)
    prepared = prepare_student(create_model("plaincnn", 10, 1), [1, 8, 8], record)
    initialize(prepared, IMAGES)
    return Checkpoint(
        state_dict=dict(prepared.state_dict()),
        model=ModelRecord("plaincnn", 10, 1, [1, 8, 8]),
        dataset=DatasetRecord("digits", "digits", "0123456789abcdef", list("0123456789"), CENTERED.as_entry()),
        training=TrainingRecord("qkd", 3, 0, 97.5, 359),
        quantization=record,
    )


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_is_rebuilt(name: str, tmp_path: Path) -> None:
    saved = checkpoint(name)
    save_checkpoint(tmp_path / "model.pt", saved)
    loaded = load_checkpoint(tmp_path / "model.pt")
    assert loaded.quantization == saved.quantization
    rebuilt = rebuild(loaded)
    assert rebuilt.settings.quantizer == name
    assert saved.quantization is not None
    original = prepare_student(create_model("plaincnn", 10, 1), [1, 8, 8], saved.quantization)
    original.load_state_dict(saved.state_dict)
    assert torch.equal(freeze(rebuilt)(IMAGES), freeze(original.eval())(IMAGES))


def test_checkpoints_from_before_there_was_a_choice_hold_intervals(tmp_path: Path) -> None:
    saved = checkpoint("interval")
    save_checkpoint(tmp_path / "model.pt", saved)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert content["quantization"].pop("quantizer") == "interval"
    save_tensors(tmp_path / "old.pt", content)
    loaded = load_checkpoint(tmp_path / "old.pt")
    assert loaded.quantization == saved.quantization
    assert rebuild(loaded).settings.quantizer == "interval"


@pytest.mark.parametrize("name", QUANTIZERS)
def test_ranges_must_be_positive(name: str) -> None:
    saved = checkpoint(name)
    ranges = [key for key in saved.state_dict if key.startswith(("weights.", "activations."))]
    ranges = [key for key in ranges if not key.endswith((".delta", ".move"))]
    for key in (ranges[0], ranges[-1]):
        state = {k: v.clone() for k, v in saved.state_dict.items()}
        state[key].fill_(-1.0)
        with pytest.raises(UserError, match="quantization step is -1"):
            rebuild(replace(saved, state_dict=state))


def test_another_quantizer_does_not_fit(tmp_path: Path) -> None:
    saved = checkpoint("qil")
    assert saved.quantization is not None
    with pytest.raises(UserError, match=r"does not fit plaincnn: missing .*\.step"):
        rebuild(replace(saved, quantization=replace(saved.quantization, quantizer="interval")))
    save_checkpoint(tmp_path / "model.pt", saved)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    save_tensors(tmp_path / "odd.pt", {**content, "quantization": {**content["quantization"], "quantizer": "quil"}})
    with pytest.raises(UserError, match=r"odd\.pt: quantizer is 'quil'; did you mean 'qil'\?"):
        rebuild(load_checkpoint(tmp_path / "odd.pt"))
