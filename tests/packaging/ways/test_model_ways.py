"""Ways out of what is no model, or a model in another state than a function needs: each leads to a frozen model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from to_a_file import goes_to_a_file
from torch import Tensor, nn
from ways import Way, follow

import qkd_deploy as qkd
from qkd_deploy.checkpoints.checkpoint import Checkpoint, save_checkpoint
from qkd_deploy.checkpoints.records import DatasetRecord, ModelRecord, TrainingRecord
from qkd_deploy.errors import QuantizationWarning
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.pixels.normalization import CENTERED


def images(height: int = 8) -> Tensor:
    return torch.randn(8, 1, height, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 4)]
    return nn.Sequential(*layers).eval()


def prepared(bits: str = "w8a8", **settings: Any) -> PreparedModel:
    return qkd.prepare(network(), bits, images(), **settings)


def ready(bits: str = "w8a8", **settings: Any) -> PreparedModel:
    model = prepared(bits, **settings)
    qkd.initialize(model, images())
    return model


def saved(folder: Path) -> str:
    """A checkpoint, as training leaves one, of a network that is the user's own."""
    model = ready(normalization=CENTERED)
    checkpoint = Checkpoint(
        state_dict=dict(model.state_dict()),
        model=ModelRecord("own:network", 4, 1, [1, 8, 8]),
        dataset=DatasetRecord("digits", "digits", "0123456789abcdef", list("0123"), CENTERED.as_entry()),
        training=TrainingRecord("qat", 1, 0, 97.5, 359),
        quantization=model.settings,
    )
    save_checkpoint(folder / "model.pt", checkpoint)
    return str(folder / "model.pt")


def loaded(model: nn.Module, state: Mapping[str, Any], **options: Any) -> nn.Module:
    model.load_state_dict(state, **options)
    return model


def changed(change: Callable[[PreparedModel], object], back: Mapping[str, Any] | None = None) -> None:
    """Freeze a model after a change, and after an earlier state is restored where that is given."""
    model = ready()
    change(model)
    if back is not None:
        model.load_state_dict(back)
    qkd.freeze(model)


def damage(path: str, value: float = torch.nan) -> Callable[[PreparedModel], object]:
    return lambda model: model.get_parameter(path).data.fill_(value)


def lost_step(model: PreparedModel) -> None:
    model.activation("3").set_scale(torch.inf)


def damaged_record(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "_extra_state": state["_extra_state"][:-9]}


def weights_alone(state: Mapping[str, Any]) -> None:
    model = prepared("w4a4")
    model.network.load_state_dict({name[8:]: value for name, value in state.items() if name.startswith("network.")})
    qkd.initialize(model, images())
    qkd.freeze(model)


def frozen_around(model: object) -> None:
    qkd.freeze(model)  # type: ignore[arg-type]


WAYS: dict[str, Way] = {
    "a frozen model": Way(
        lambda path: qkd.initialize(qkd.freeze(ready()), images()),
        "not a frozen one; pass the prepared model that it was frozen from",
        lambda path: qkd.initialize(ready(), images()),
    ),
    "a path": Way(
        lambda path: frozen_around(saved(path)),
        "open the checkpoint first, with load('/",
        lambda path: qkd.freeze(qkd.load(saved(path), model=network())),
    ),
    "a state": Way(
        lambda path: frozen_around(ready().state_dict()),
        "prepare the network, and load the state into it with load_state_dict",
        lambda path: qkd.freeze(loaded(prepared(), ready().state_dict())),
    ),
    "a network": Way(
        lambda path: frozen_around(network()),
        "not the Sequential before it; begin with prepare(network, bits, example_inputs)",
        lambda path: goes_to_a_file(network(), images()),
    ),
    "an object": Way(
        lambda path: frozen_around(5),
        "takes the model that prepare or load returned, not <class 'int'>; pass that model",
        lambda path: frozen_around(ready()),
    ),
    "a model without values": Way(
        lambda path: qkd.freeze(ready().to("meta")),
        "load a state with load_state_dict and assign=True before freeze",
        lambda path: qkd.freeze(loaded(ready().to("meta"), ready().state_dict(), assign=True)),
    ),
    "weights that are lost": Way(
        lambda path: changed(damage("network.0.weight")),
        "0 has weights that are not finite; restore an earlier checkpoint",
        lambda path: changed(damage("network.0.weight"), ready().state_dict()),
    ),
    "statistics that are lost": Way(
        lambda path: changed(damage("network.1.weight")),
        "0 has weights or statistics that are not finite; restore an earlier checkpoint",
        lambda path: changed(damage("network.1.weight"), ready().state_dict()),
    ),
    "a step that is lost": Way(
        lambda path: changed(lost_step),
        "the step of 3 is not finite; restore an earlier checkpoint",
        lambda path: changed(lost_step, ready().state_dict()),
    ),
    "a state of other quantizers": Way(
        lambda path: prepared("w4a4").load_state_dict(ready().state_dict()),
        "prepare with the arguments of that model, or take its weights alone: model.network.load_state_dict({name[8:]: "
        "value for name, value in state.items() if name.startswith('network.')})",
        lambda path: [prepared("w8a8").load_state_dict(ready().state_dict()), weights_alone(ready().state_dict())],
    ),
    "a state with damaged quantizers": Way(
        lambda path: prepared().load_state_dict(damaged_record(ready().state_dict())),
        "use another one",
        lambda path: prepared().load_state_dict(ready().state_dict()),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path)


def far_from_its_weights(model: PreparedModel) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", QuantizationWarning)
        qkd.freeze(model)
    return [str(item.message) for item in caught]


def test_scales_that_are_far_from_the_weights() -> None:
    """Weights that are loaded behind the scales, and a learning rate that moves them away."""
    small = copy.deepcopy(network().state_dict())
    small["0.weight"] /= 1e4
    model = ready()
    model.network.load_state_dict(small)
    (said,) = far_from_its_weights(model)
    assert (
        "times too wide for its weights; calibrate or initialize after the weights are loaded, or train it at" in said
    )
    qkd.initialize(model, images())
    assert far_from_its_weights(model) == []
    qkd.calibrate(loaded(model, ready().state_dict()), images())
    assert far_from_its_weights(model) == []


@pytest.mark.parametrize(("rate", "lost"), [(100.0, True), (1e-3, False)])
def test_scales_that_training_moves_away_stay_at_a_lower_learning_rate(rate: float, lost: bool) -> None:
    model = ready()
    optimizer = torch.optim.Adam(model.network_parameters(), rate)
    model(images()).square().sum().backward()
    optimizer.step()
    said = far_from_its_weights(model)
    assert bool(said) == lost == ("or train it at a lower learning rate" in "".join(said))
