"""Every function of the public API with every object that people pass by mistake: it works, or says what to pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import qkd_deploy as qkd
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.prepared import PreparedModel


class Things(NamedTuple):
    """What a user has at hand."""

    network: nn.Module
    images: torch.Tensor
    prepared: PreparedModel
    frozen: FrozenModel
    file: Path


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Things:
    network, images = plain(), torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    prepared = qkd.prepare(network, "w8a8", images)
    qkd.initialize(prepared, images)
    prepared.eval()
    frozen = qkd.freeze(prepared)
    file = tmp_path_factory.mktemp("wrong") / "model.onnx"
    qkd.export_onnx(prepared, file)
    return Things(network, images, prepared, frozen, file)


class OptimizedModule(nn.Module):
    """What ``torch.compile`` returns, by its name and attribute; importing the real one takes seconds."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._orig_mod = network


class _FabricModule(nn.Module):
    """What Lightning Fabric's ``setup`` returns."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.module = network


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "AveragedModel": AveragedModel,
    "DataParallel": nn.DataParallel,
    "a compiled model": OptimizedModule,
    "a model of Lightning Fabric": _FabricModule,
    "an average of a compiled model": lambda model: AveragedModel(OptimizedModule(model)),
}

OTHERS: dict[str, Callable[[Things], Any]] = {
    "nothing": lambda t: None,
    "a number": lambda t: 5,
    "a path": lambda t: Path("model.pt"),
    "a text": lambda t: "model.pt",
    "a state_dict": lambda t: t.prepared.state_dict(),
    "an array": lambda t: np.zeros((2, 1, 8, 8), np.float32),
    "a tensor": lambda t: t.images[:2],
    "a list": lambda t: [1, "two"],
    "an empty list": lambda t: [],
    "no images": lambda t: t.images[:0],
    "a class": lambda t: nn.Linear,
    "a function": lambda t: plain,
    "a network": lambda t: plain(),
    "a prepared model": lambda t: t.prepared,
    "a frozen model": lambda t: t.frozen,
    "a module around a prepared model": lambda t: nn.Sequential(t.prepared),
    "an object": lambda t: object(),
    **{name: lambda t, wrap=wrap: wrap(t.prepared) for name, wrap in WRAPPERS.items()},
}

PLACES: dict[str, Callable[[Things, Any, Path], Any]] = {
    "prepare: model": lambda t, thing, out: qkd.prepare(thing, "w8a8", t.images),
    "prepare: bits": lambda t, thing, out: qkd.prepare(t.network, thing, t.images),
    "prepare: example_inputs": lambda t, thing, out: qkd.prepare(t.network, "w8a8", thing),
    "prepare: overrides": lambda t, thing, out: qkd.prepare(t.network, "w8a8", t.images, overrides=thing),
    "prepare: replace": lambda t, thing, out: qkd.prepare(t.network, "w8a8", t.images, replace=thing),
    "prepare: normalization": lambda t, thing, out: qkd.prepare(t.network, "w8a8", t.images, normalization=thing),
    "prepare: leaf_modules": lambda t, thing, out: qkd.prepare(t.network, "w8a8", t.images, leaf_modules=thing),
    "initialize: prepared": lambda t, thing, out: qkd.initialize(thing, t.images),
    "initialize: inputs": lambda t, thing, out: qkd.initialize(t.prepared, thing),
    "calibrate: prepared": lambda t, thing, out: qkd.calibrate(thing, t.images),
    "calibrate: data": lambda t, thing, out: qkd.calibrate(t.prepared, thing, correction=False),
    "reconstruct: prepared": lambda t, thing, out: qkd.reconstruct(thing, t.network, t.images),
    "reconstruct: network": lambda t, thing, out: qkd.reconstruct(t.prepared, thing, t.images),
    "reconstruct: data": lambda t, thing, out: qkd.reconstruct(t.prepared, t.network, thing),
    "freeze: prepared": lambda t, thing, out: qkd.freeze(thing),
    "export_onnx: model": lambda t, thing, out: qkd.export_onnx(thing, out / "m.onnx"),
    "export_onnx: path": lambda t, thing, out: qkd.export_onnx(t.frozen, thing),
    "verify_onnx: path": lambda t, thing, out: qkd.verify_onnx(thing),
    "verify_onnx: data": lambda t, thing, out: qkd.verify_onnx(t.file, data=thing),
    "verify_onnx: inputs": lambda t, thing, out: qkd.verify_onnx(t.file, inputs=thing),
    "verify_onnx: frozen": lambda t, thing, out: qkd.verify_onnx(t.file, frozen=thing),
    "verify_onnx: prepared": lambda t, thing, out: qkd.verify_onnx(t.file, frozen=t.frozen, prepared=thing),
    "parameter_groups: network": lambda t, thing, out: qkd.parameter_groups(thing, 0.1),
    "load: path": lambda t, thing, out: qkd.load(thing),
    "load: model": lambda t, thing, out: qkd.load(out / "none.pt", model=thing),
    "load_dataset: name": lambda t, thing, out: qkd.load_dataset(thing),
    "load_dataset: data_dir": lambda t, thing, out: qkd.load_dataset("digits", thing),
    "create_model: name": lambda t, thing, out: qkd.create_model(thing, 10),
    "create_model: num_classes": lambda t, thing, out: qkd.create_model("resnet8", thing),
    "train: config": lambda t, thing, out: qkd.train(thing, out / "run"),
    "train: out": lambda t, thing, out: qkd.train({"epochs": 1}, thing),  # type: ignore[arg-type]  # stops before training
}


def public_functions() -> Iterator[str]:
    """The functions of the API; its classes say what is wrong themselves: settings and PyTorch's optimizer."""
    for name in qkd.__all__:
        value = getattr(qkd, name)
        if callable(value) and not isinstance(value, type):
            yield name


def test_every_public_function_is_tried() -> None:
    assert {place.split(":")[0] for place in PLACES} == set(public_functions())


@pytest.mark.parametrize("place", PLACES)
def test_a_wrong_object_is_one_sentence(
    place: str, things: Things, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = {}
    for name, make in OTHERS.items():
        try:
            PLACES[place](things, make(things), tmp_path)
        except qkd.UserError as error:
            if "\n" in str(error) or not (";" in str(error) or "," in str(error)):
                wrong[name] = str(error)
        except Exception as error:  # noqa: BLE001  # every other exception is the fault that this test is for
            wrong[name] = f"{type(error).__name__}: {error}"[:200]
    assert not wrong, "\n".join(f"{name}: {said}" for name, said in wrong.items())


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_models_are_taken_out(wrapper: str, things: Things, tmp_path: Path) -> None:
    """Each function does with a wrapped model what it does with the model."""
    network = plain()
    network[0].weight.data *= 3  # type: ignore[operator]
    prepared = qkd.prepare(network, "w4a8", things.images).eval()
    wrapped = WRAPPERS[wrapper](prepared)
    qkd.initialize(wrapped, things.images)
    qkd.calibrate(wrapped, things.images, correction=False)
    qkd.reconstruct(wrapped, network, things.images)
    qkd.export_onnx(wrapped, tmp_path / "m.onnx")
    frozen = qkd.freeze(wrapped)
    report = qkd.verify_onnx(
        tmp_path / "m.onnx", inputs=things.images.numpy(), frozen=WRAPPERS[wrapper](frozen), prepared=wrapped
    )
    assert report.passed
    qkd.export_onnx(WRAPPERS[wrapper](frozen), tmp_path / "frozen.onnx")
    assert len(frozen(things.images).unique(dim=0)) > 1
    groups = qkd.parameter_groups(wrapped, 0.1)
    assert sum(len(group["params"]) for group in groups.steps) == 4


def test_a_way_to_the_model_inside_works(things: Things, tmp_path: Path) -> None:
    """What the sentences recommend is followed to the end."""
    with pytest.raises(qkd.UserError, match=r"pass model\.get_submodule\('1\.0'\)"):
        qkd.freeze(nn.Sequential(nn.Identity(), nn.Sequential(things.prepared)))
    qkd.freeze(nn.Sequential(nn.Identity(), nn.Sequential(things.prepared)).get_submodule("1.0"))
    with pytest.raises(qkd.UserError, match=r"call model\.float\(\) first"):
        qkd.freeze(copy.deepcopy(things.prepared).double())
    qkd.freeze(copy.deepcopy(things.prepared).half().float())
    with pytest.raises(qkd.UserError, match=r"pass freeze\(model\)"):
        qkd.verify_onnx(things.file, frozen=things.prepared)
    qkd.export_onnx(things.prepared, tmp_path / "m.onnx")
    assert qkd.verify_onnx(tmp_path / "m.onnx", frozen=qkd.freeze(things.prepared)).passed
    with pytest.raises(qkd.UserError, match=r"is prepared already"):
        qkd.prepare(nn.Sequential(things.prepared), "w2a2", things.images)
    with pytest.raises(qkd.UserError, match=r"is prepared already"):
        qkd.prepare(things.frozen, "w2a2", things.images)
