"""Prepared and frozen models are modules like any other: whatever copies or stores modules may copy or store them."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qkd_deploy import freeze, initialize, prepare
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.models import create_model
from tests.support.deployment import noise, settle

IMAGES = noise(4, 1, 8, 8)


def through_torch_save(model: nn.Module) -> Any:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def through_state_dict(model: PreparedModel) -> Any:
    """Everything that is learned is in the state_dict: one that learned other things becomes the same."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = prepared_model(model.settings.quantizer, seed=1)
    trained_on(other)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    return other


def through_meta(model: nn.Module) -> Any:
    """No tensor hides in an attribute, where ``to`` would not find it."""
    other = copy.deepcopy(model).to("meta")
    assert all(value.is_meta for value in (*other.parameters(), *other.buffers()))
    assert not any(isinstance(value, Tensor) for module in other.modules() for value in vars(module).values())
    fixed = {name for name, value in model.named_parameters() if not value.requires_grad}
    other.load_state_dict(model.state_dict(), assign=True)
    assert {name for name, value in other.named_parameters() if not value.requires_grad} == fixed
    return other


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": through_torch_save,
    "meta and back": through_meta,
}
QUANTIZERS = ["interval", "lsq", "pact", "dorefa", "ewgs", "qil"]


def prepared_model(quantizer: str = "interval", seed: int = 0) -> PreparedModel:
    torch.manual_seed(seed)
    network = settle(create_model("resnet8", 10, 1), seed).train()
    prepared = prepare(network, "w4a4", (IMAGES,), input_quantization=(1 / 64, 128), quantizer=quantizer)
    initialize(prepared, IMAGES)
    return prepared


def trained_on(model: PreparedModel, batches: int = 2) -> dict[str, Tensor]:
    """The state after some steps of training: gradients, steps, batch statistics and modes all take part."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for seed in range(batches):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(noise(8, 1, 8, 8, seed=seed)), torch.arange(8)).backward()
        optimizer.step()
    return model.state_dict()


def assert_equal_state(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    assert [name for name, value in one.items() if not torch.equal(value, two[name])] == []


@pytest.mark.parametrize(
    ("way", "quantizer"),
    [*((way, "interval") for way in COPIES), *(("state_dict", quantizer) for quantizer in QUANTIZERS)],
)
def test_copies_of_prepared_models_train_evaluate_and_freeze_alike(way: str, quantizer: str) -> None:
    original = prepared_model(quantizer)
    twin = (COPIES | {"state_dict": through_state_dict})[way](original)
    assert twin.training and isinstance(twin, PreparedModel)
    assert_equal_state(trained_on(twin), trained_on(original))
    with torch.no_grad():
        assert torch.equal(twin.eval()(IMAGES), original.eval()(IMAGES))
    assert str(twin.account) == str(original.account)
    assert_equal_codes(freeze(twin), freeze(original))


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_share_nothing(way: str) -> None:
    original = prepared_model()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    twin = COPIES[way](original)
    trained_on(twin)
    assert_equal_state(original.state_dict(), before)
    ours = {id(quantizer) for quantizer in original.modules()}
    assert ours.isdisjoint(id(quantizer) for quantizer in twin.modules())


def assert_equal_codes(one: FrozenModel, two: FrozenModel) -> None:
    images = noise(16, 1, 8, 8, seed=5)
    codes, others = one.codes(images), two.codes(images)
    assert codes and codes.keys() == others.keys()
    for name, value in codes.items():
        np.testing.assert_array_equal(value, others[name], err_msg=name)
    assert torch.equal(one(images), two(images))


@pytest.mark.parametrize("way", COPIES)
def test_copies_of_frozen_models_compute_the_same_codes(way: str) -> None:
    frozen = freeze(prepared_model().eval())
    twin = COPIES[way](frozen)
    assert not twin.training
    assert_equal_codes(twin, frozen)


def test_a_new_process_reads_what_was_saved_whole(tmp_path: Path) -> None:
    prepared = prepared_model().eval()
    torch.save({"prepared": prepared, "frozen": freeze(prepared), "images": IMAGES}, tmp_path / "models.pt")
    program = (
        "import torch, qkd_deploy as qkd\n"
        f"saved = torch.load({str(tmp_path / 'models.pt')!r}, weights_only=False)\n"
        "outputs = saved['frozen'](saved['images'])\n"
        "assert torch.equal(outputs, qkd.freeze(saved['prepared'])(saved['images']))\n"
        f"qkd.export_onnx(saved['prepared'], {str(tmp_path / 'model.onnx')!r})\n"
        f"torch.save(outputs, {str(tmp_path / 'outputs.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (tmp_path / "model.onnx").is_file()
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "outputs.pt"), freeze(prepared)(IMAGES))


def replica_of(model: nn.Module) -> nn.Module:
    """What ``nn.DataParallel`` runs on a device: modules whose parameters are plain tensors made from the model's."""
    replicas = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            replica._modules[name] = None if child is None else replicas[child]
        for name, parameter in module._parameters.items():
            if parameter is None:
                replica._parameters[name] = None
            else:
                setattr(replica, name, parameter.clone())
    return replicas[model]


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_replicas_send_their_gradients_to_the_model(quantizer: str) -> None:
    model, reference = prepared_model(quantizer), prepared_model(quantizer)
    outputs = replica_of(model)(IMAGES)
    assert torch.equal(outputs, reference(IMAGES))
    outputs.square().sum().backward()
    reference(IMAGES).square().sum().backward()
    for (name, one), two in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), name
        assert one.grad is None or torch.equal(one.grad, two.grad), name


def test_functional_calls_use_the_given_parameters() -> None:
    model = prepared_model().eval()
    changed = {name: value * 1.5 for name, value in model.state_dict().items()}
    twin = copy.deepcopy(model)
    twin.load_state_dict(changed)
    with torch.no_grad():
        outputs = torch.func.functional_call(model, changed, (IMAGES,))
        assert torch.equal(outputs, twin(IMAGES))
        assert not torch.equal(outputs, model(IMAGES))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_models_move_to_a_gpu_and_back() -> None:
    prepared = prepared_model().eval()
    frozen = freeze(prepared)
    there = copy.deepcopy(prepared).cuda()
    assert_equal_codes(freeze(there).cpu(), frozen)
    assert torch.equal(copy.deepcopy(frozen).cuda()(IMAGES.cuda()).cpu(), frozen(IMAGES))
    assert_equal_state(there.cpu().state_dict(), prepared.state_dict())
