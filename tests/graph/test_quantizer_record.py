"""A state_dict of other bits, placement or functions is refused with one sentence, whose ways out work."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.graph.prepared import EXTRA_STATE

IMAGES = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
    return nn.Sequential(*layers, nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)).eval()


def prepared(bits: str = "w4a4", **settings: Any) -> Any:
    model = qkd.prepare(network(), bits, IMAGES, **settings)
    qkd.initialize(model, IMAGES)
    return model.eval()


OTHERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "fewer bits": ("w2a2", {}, "weights.2 has codes -7..7 there and codes -1..1 here, and "),
    "more bits": ("w8a8", {}, "weights.2 has codes -7..7 there and codes -63..63 here"),
    "activations alone": ("w4a8", {}, "activations."),
    "first and last": ("w4a4", {"first_last_bits": 4}, "weights.0 has codes -63..63 there and codes -7..7 here"),
    "one layer": ("w4a4", {"overrides": {"2": "w2a2"}}, "weights.2 has codes -7..7 there and codes -1..1 here"),
    "placement": ("w4a4", {"placement": "paper"}, "no quantizer here"),
    "range": ("w4a4", {"weight_range": "full"}, "weights.0 has codes -63..63 there and codes -127..127 here"),
    "quantizer": ("w4a4", {"quantizer": "lsq"}, "quantizer is interval there and lsq here"),
    "functions": ("w4a4", {"replace": {"silu": "relu6"}}, "replace is nothing there and {'silu': 'relu6'} here"),
    "pixels": ("w4a4", {"normalization": "0.5/0.25"}, "normalization is nothing there and 0.5/0.25 here"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_state_of_other_quantizers_is_refused_and_nothing_copied(other: str) -> None:
    bits, settings, difference = OTHERS[other]
    state, model = prepared().state_dict(), prepared(bits, **settings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for value in state.values():
        value.add_(1)
    state[EXTRA_STATE].sub_(1)
    with pytest.raises(qkd.UserError) as caught:
        model.load_state_dict(state)
    message = str(caught.value)
    assert f"prepared otherwise, at w4a4 (here {bits}): " in message and difference in message, message
    assert "\n" not in message
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    line = re.search(r"model\.network\.load_state_dict\(.*\)$", message)
    assert line is not None
    exec(line[0], {"model": model, "state": state})
    assert torch.equal(model.network[0].weight, state["network.0.weight"])


def through_safetensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return load(save({name: value.contiguous() for name, value in state.items()}))


def through_a_file(state: dict[str, Tensor]) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


@pytest.mark.parametrize("way", [dict, through_a_file, through_safetensors])
def test_the_same_arguments_give_the_same_model(way: Any) -> None:
    saved = prepared(overrides={"2": "w4a4"})  # says nothing else than without
    other = qkd.prepare(network(), "w4a4", IMAGES).eval()
    other.load_state_dict(way(saved.state_dict()))
    assert torch.equal(qkd.freeze(other)(IMAGES), qkd.freeze(saved)(IMAGES))


def test_states_of_older_versions_and_averages_of_states_load() -> None:
    saved = prepared()
    old = {name: value for name, value in saved.state_dict().items() if name != EXTRA_STATE}
    mean = {name: (value + value) / 2 for name, value in saved.state_dict().items()}
    for state in (old, mean):
        other = prepared()
        other.load_state_dict(state)
        assert torch.equal(qkd.freeze(other)(IMAGES), qkd.freeze(saved)(IMAGES))


def test_a_model_inside_of_another_is_compared_too() -> None:
    outer, other = nn.ModuleDict({"student": prepared()}), nn.ModuleDict({"student": prepared("w8a8")})
    with pytest.raises(qkd.UserError, match="at w4a4"):
        other.load_state_dict(outer.state_dict())


@pytest.mark.parametrize(
    "record",
    [b"{", b"[]", b"\xff\xfe", b'{"bits": 5}', json.dumps({"grids": {"a": [1e30, 1, 0]}}).encode(), b"[" * 50_000],
)
def test_records_that_cannot_be_read_are_refused(record: bytes) -> None:
    model = prepared()
    state = {**model.state_dict(), EXTRA_STATE: torch.tensor(list(record), dtype=torch.uint8)}
    with pytest.raises(qkd.UserError, match="cannot be read"):
        model.load_state_dict(state)
