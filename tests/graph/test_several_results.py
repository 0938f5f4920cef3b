"""Steps with several results go the whole way: prepared, trained, frozen, exported and verified."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
import torch
import torch.nn.functional as F
from deployment import Deployed, noise
from placement import IMAGES, Small, check
from torch import Tensor, nn
from whole_way import go_all_the_way

from qkd_deploy import export_onnx, freeze, initialize, prepare, verify_onnx


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x.exp()


class Levels(NamedTuple):
    fine: Tensor
    coarse: Tensor


class Nested(nn.Module):
    """Three results in two levels, one of them by name, and one that is none."""

    def forward(self, x: Tensor) -> Any:
        return {"levels": Levels(x.cumsum(2), x.cumsum(3)), "none": None, "last": [x.sort(1).values]}


class Recurrent(nn.Module):
    """A convolution over time, a recurrent layer, and its last state."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.stem = nn.Conv1d(6, 8, 3, padding=1)
        self.memory = kind(8, 5, batch_first=True, **options)
        self.head = nn.Linear(5 * (2 if options.get("bidirectional") else 1), 4)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.memory(torch.relu(self.stem(x)).transpose(1, 2))
        return self.head(steps[:, -1])  # type: ignore[no-any-return]


class Cell(nn.Module):
    """A cell that is called once for every moment; its state begins with zeros."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.cell, self.head = kind(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = torch.zeros(x.shape[0], 5)
        if isinstance(self.cell, nn.LSTMCell):
            state = (state, state)
        for moment in range(x.shape[2]):
            state = self.cell(x[:, :, moment], state)
        return self.head(state[0] if isinstance(self.cell, nn.LSTMCell) else state)  # type: ignore[no-any-return]


class LastState(Recurrent):
    """Reads the state that a layer ends with instead of what it says at the end."""

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.memory(torch.relu(self.stem(x)).transpose(1, 2))
        last = state[0] if isinstance(self.memory, nn.LSTM) else state
        return self.head(last[-1])  # type: ignore[no-any-return]


SERIES = noise(3, 6, 7)
RECURRENT: dict[str, Callable[[], nn.Module]] = {
    "GRU": lambda: Recurrent(nn.GRU),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "RNN": lambda: Recurrent(nn.RNN),
    "LSTM, two layers, both ways": lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True),
    "last state of a GRU": lambda: LastState(nn.GRU),
    "last state of an LSTM": lambda: LastState(nn.LSTM),
    "LSTMCell": lambda: Cell(nn.LSTMCell),
    "GRUCell": lambda: Cell(nn.GRUCell),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_stay_in_float_and_are_exported(name: str, tmp_path: Path) -> None:
    prepared = go_all_the_way(RECURRENT[name](), (SERIES,), tmp_path)
    assert all("recurrent" in entry.reason for entry in prepared.account.floats)


def unpool(n: Any, x: Tensor) -> Tensor:
    values, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(values, places, 2)


def standardise(n: Any, x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, dim=(2, 3), keepdim=True)
    return (x - mean) * (variance + 1e-3).rsqrt()


def deviate(n: Any, x: Tensor) -> Tensor:
    deviation, mean = torch.std_mean(x, dim=1, keepdim=True)
    return x * (deviation + mean)


def pair(n: Any, x: Tensor) -> Tensor:
    one, two = n.pair(x)
    return one + two  # type: ignore[no-any-return]


def nested(n: Any, x: Tensor) -> Tensor:
    found = n.nested(x)
    return found["levels"].fine + found["levels"].coarse + found["last"][0]  # type: ignore[no-any-return]


def best_and_where(n: Any, x: Tensor) -> Tensor:
    values, places = x.max(1, keepdim=True)
    return x * places.to(torch.float32) + values


FLOATS: dict[str, Callable[[Any, Any], Any]] = {
    "max-unpool": unpool,
    "var_mean": standardise,
    "std_mean": deviate,
    "a module with two results": pair,
    "results in results": nested,
    "largest and where": best_and_where,
    "two of three largest": lambda n, x: x.topk(3, 1).values[:, :2].repeat(1, 4, 1, 1),
    "sorted": lambda n, x: x.sort(dim=3, descending=True)[0],
    "smallest first": lambda n, x: torch.sort(x, 2).values,
    "places in order": lambda n, x: x + x.argsort(1).float(),
}


@pytest.mark.parametrize("name", FLOATS)
def test_operations_with_several_results(name: str, tmp_path: Path) -> None:
    model = Small(FLOATS[name], pair=Pair(), nested=Nested())
    prepared = go_all_the_way(model, (IMAGES,), tmp_path, leaf_modules=(Pair, Nested))
    assert prepared.account.floats


class Decoded(nn.Module):
    """What a decoder of heat maps returns: values and where they are."""

    def __init__(self, decode: Callable[[Any], Any]) -> None:
        super().__init__()
        self.stem, self.head, self.decode = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), decode

    def forward(self, x: Tensor) -> Any:
        return self.decode(self.head(torch.relu(self.stem(x))))


DECODERS: dict[str, Callable[[Any], Any]] = {
    "topk": lambda y: tuple(y.flatten(1).topk(10)),
    "smallest": lambda y: tuple(y.flatten(2).topk(5, largest=False)),
    "sort": lambda y: tuple(torch.sort(y.flatten(1), dim=-1, descending=True)),
    "max": lambda y: tuple(y.max(1)),
    "min": lambda y: (*torch.min(y.flatten(2), 2), y),
    "argsort": lambda y: (y, y.flatten(2).argsort(-1, descending=True)),
}


@pytest.mark.parametrize("name", DECODERS)
def test_positions_are_those_of_the_first_of_equal_codes(name: str, tmp_path: Path) -> None:
    """Four images in four shades, so that most codes are equal."""
    go_all_the_way(Decoded(DECODERS[name]), ((noise(4, 3, 8, 8) * 2).round() / 2,), tmp_path)


BATCHES: dict[str, Callable[[Any, Any], Any]] = {
    "chunk": lambda n, x: (lambda a, b: a - b)(*torch.cat([x, x.flip(3)]).chunk(2)),
    "split": lambda n, x: (lambda a, b: a * b)(*torch.cat([x, x.flip(3)]).split(x.shape[0])),
    "three parts": lambda n, x: torch.cat([x, x.flip(3), x.flip(2)]).tensor_split(3)[1] + x,
    "slices": lambda n, x: (lambda y: y[: x.shape[0]] + y[x.shape[0] :])(torch.cat([x, x.flip(3)])),
    "half": lambda n, x: (lambda y: y[y.shape[0] // 2 :])(torch.cat([x, x.flip(3)])) + x,
}


@pytest.mark.parametrize("name", BATCHES)
def test_parts_of_several_batches_are_slices(name: str) -> None:
    deployed: Deployed = check(Small(BATCHES[name]))
    assert not deployed.prepared.account.floats


def test_a_cell_that_is_called_at_every_step_has_its_weights_once(tmp_path: Path) -> None:
    series = noise(4, 6, 5)
    prepared = prepare(Cell(nn.LSTMCell), "w8a8", (series,))
    initialize(prepared, series)
    path = tmp_path / "model.onnx"
    export_onnx(prepared.eval(), path)
    weights = prepared.network.get_parameter("cell.weight_ih")
    stored = [
        array
        for array in onnx.load(path).graph.initializer
        if math.prod(array.dims) == weights.numel() and len(array.dims) == 2
    ]
    assert len(stored) == 1
    assert verify_onnx(path, inputs=series.numpy(), frozen=freeze(prepared), prepared=prepared).passed
