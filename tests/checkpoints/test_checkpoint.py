from __future__ import annotations

import errno
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from float_networks import float_network
from scales import learned
from torch import nn

from qkd_deploy.checkpoints.checkpoint import (
    Checkpoint,
    load_checkpoint,
    prepare_student,
    rebuild,
    save_checkpoint,
)
from qkd_deploy.checkpoints.records import DatasetRecord, ModelRecord, TrainingRecord
from qkd_deploy.checkpoints.torch_file import save_tensors
from qkd_deploy.checkpoints.weights import read_weights
from qkd_deploy.errors import UserError
from qkd_deploy.graph.placement.settings import NetworkBits
from qkd_deploy.models import create_model
from qkd_deploy.pixels.normalization import CENTERED, Normalization

QUANTIZATION = NetworkBits(bits_for={"fc": "w8a8"}).quantization(CENTERED)


def quantized_checkpoint(name: str = "plaincnn") -> tuple[nn.Module, Checkpoint]:
    torch.manual_seed(0)
    prepared = prepare_student(create_model("plaincnn", 10, 1), [1, 8, 8], QUANTIZATION)
    for quantizer in learned(prepared.weights, prepared.activations):
        quantizer.set_scale(0.05 + 0.1 * torch.rand(()).item())
    prepared.eval()
    checkpoint = Checkpoint(
        state_dict=dict(prepared.state_dict()),
        model=ModelRecord(name, 10, 1, [1, 8, 8]),
        dataset=DatasetRecord("digits", "digits", "0123456789abcdef", list("0123456789"), CENTERED.as_entry()),
        training=TrainingRecord("qkd", 3, 0, 97.5, 359),
        quantization=QUANTIZATION,
    )
    return prepared, checkpoint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.pt"
    save_checkpoint(file, quantized_checkpoint()[1])
    return file


def test_round_trip_gives_the_same_network(path: Path) -> None:
    prepared, checkpoint = quantized_checkpoint()
    loaded = load_checkpoint(path)
    assert (loaded.model, loaded.dataset, loaded.training) == (
        checkpoint.model,
        checkpoint.dataset,
        checkpoint.training,
    )
    assert loaded.quantization == QUANTIZATION
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(rebuild(loaded)(images), prepared(images))


def test_float_networks_round_trip(tmp_path: Path) -> None:
    network = create_model("plaincnn", 10, 1).eval()
    checkpoint = replace(quantized_checkpoint()[1], state_dict=dict(network.state_dict()), quantization=None)
    save_checkpoint(tmp_path / "teacher.pt", checkpoint)
    images = torch.randn(4, 1, 8, 8)
    rebuilt = float_network(tmp_path / "teacher.pt")
    assert torch.equal(rebuilt(images), network(images))


def test_checkpoints_of_older_programs_are_centered(path: Path) -> None:
    """Mean and deviation were two numbers for all data sets, and the quantization did not name them."""
    content = torch.load(path, weights_only=True)
    del content["dataset"]["normalization"], content["dataset"]["evaluation"], content["quantization"]["normalization"]
    content["dataset"] |= {"mean": 128.0, "std": 64.0}
    save_tensors(path, content)
    loaded = load_checkpoint(path)
    assert Normalization.of_entry(loaded.dataset.normalization) == CENTERED
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(rebuild(loaded)(images), quantized_checkpoint()[0](images))


def test_a_quantized_checkpoint_gives_its_weights_before_rounding(path: Path) -> None:
    network = quantized_checkpoint()[0].network
    assert isinstance(network, nn.Module)
    weights = read_weights(path)
    assert weights.keys() == network.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_a_float_checkpoint_is_not_rebuilt_as_a_quantized_one(path: Path) -> None:
    loaded = load_checkpoint(path)
    with pytest.raises(UserError, match="holds a full-precision network"):
        rebuild(replace(loaded, quantization=None))


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("through_torch", [True, False])
def test_a_file_that_wants_to_run_code_is_refused(tmp_path: Path, through_torch: bool) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "executed"
    content = {"format": "qkd-deploy checkpoint", "state_dict": Malicious(marker)}
    if through_torch:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"is refused: it (wants to run code, posix\.mkdir|is damaged)"):
        load_checkpoint(path)
    assert not marker.exists()


def test_a_factory_named_only_by_the_file_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    marker = tmp_path / "imported"
    (tmp_path / "own_network.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from qkd_deploy.models import create_model\n"
        "def make(num_classes, in_channels):\n    return create_model('plaincnn', num_classes, in_channels)\n"
    )
    monkeypatch.chdir(tmp_path)
    save_checkpoint(path, quantized_checkpoint("own_network:make")[1])
    loaded = load_checkpoint(path)
    with pytest.raises(UserError, match="--model own_network:make"):
        rebuild(loaded)
    assert not marker.exists()
    rebuild(loaded, model="own_network:make")
    assert marker.exists()
    rebuild(loaded, model=create_model("plaincnn", 10, 1))


def test_missing_folder_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(UserError, match="is a folder"):
        load_checkpoint(tmp_path)
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("text.pt", "empty.pt"):
        with pytest.raises(UserError, match=f"{name} is (refused|damaged)"):
            load_checkpoint(tmp_path / name)
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="not a checkpoint of qkd-deploy"):
        load_checkpoint(tmp_path / "foreign.pt")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_files(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"model\.pt is (refused|damaged)"):
        load_checkpoint(path)


def edited(path: Path, **entries: Any) -> Path:
    content = torch.load(path, weights_only=True)
    save_tensors(path, {**content, **entries})
    return path


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format_version": 99}, "checkpoint format 99"),
        ({"state_dict": None}, "holds no weights"),
        ({"state_dict": {"a": 1}}, "holds no weights"),
        ({"model": None}, "'model'"),
        ({"model": {"name": "plaincnn"}}, "'model'"),
        ({"model": {"name": "plaincnn", "num_classes": "10", "in_channels": 1, "image_shape": [1, 8, 8]}}, "'model'"),
        ({"quantization": [1]}, "'quantization'"),
    ],
)
def test_damaged_entries_are_named(path: Path, entries: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_checkpoint(edited(path, **entries))


def test_unfit_shapes_are_named(path: Path) -> None:
    model = {"name": "plaincnn", "num_classes": 10, "in_channels": 1, "image_shape": [0, -8]}
    with pytest.raises(UserError, match="'model'"):
        load_checkpoint(edited(path, model=model))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(path: Path, value: float) -> None:
    loaded = load_checkpoint(path)
    name = next(name for name in loaded.state_dict if name.endswith("weight"))
    loaded.state_dict[name].view(-1)[3] = value
    with pytest.raises(UserError, match=f"NaN or infinite values in {name}"):
        rebuild(loaded)


def test_steps_must_be_positive(path: Path) -> None:
    loaded = load_checkpoint(path)
    name = next(name for name in loaded.state_dict if name.endswith("step.start"))
    loaded.state_dict[name].fill_(-1.0)
    with pytest.raises(UserError, match="quantization step"):
        rebuild(loaded)


def test_another_network_is_refused_with_an_account(path: Path) -> None:
    with pytest.raises(UserError, match=r"does not fit resnet8: missing .* and \d+ more; unexpected"):
        rebuild(load_checkpoint(path), model="resnet8")


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    checkpoint = quantized_checkpoint()[1]
    files = [tmp_path / "model.pt", tmp_path / "again" / "other.pt"]
    for file in files:
        save_checkpoint(file, checkpoint)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_failed_write_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full_disk(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        save_checkpoint(path, quantized_checkpoint()[1])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
