"""Translations of float operations are kept within a process, by what they depend on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from placement import IMAGES, Small
from torch import Tensor, nn

from qkd_deploy import freeze, initialize, prepare
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.graph.ir import Node, Ref
from qkd_deploy.graph.translation import kept, translate
from qkd_deploy.graph.translation.kept import Translations
from qkd_deploy.graph.translation.operation import Operation


def test_a_network_is_translated_once_and_its_bytes_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    translated: list[str] = []
    original = translate._translated

    def counted(operation: Operation, *rest: Any) -> object:
        translated.append(operation.node.name)
        return original(operation, *rest)

    monkeypatch.setattr(translate, "_translated", counted)
    monkeypatch.setattr(translate, "_translations", Translations(2**20))
    torch.manual_seed(0)
    network = Small(lambda n, x: n.up(x / (x + 1) + x / (x + 2)), up=nn.ConvTranspose2d(8, 8, 2, 2))
    prepared = prepare(network.eval(), "w4a4", (IMAGES,))
    initialize(prepared, IMAGES)
    first, again = (build_model(freeze(prepared))[0].SerializeToString() for _ in range(2))
    build_model(freeze(prepared), weights="packed")
    assert translated == ["truediv", "up"]  # the second quotient is the same operation of other tensors
    assert first == again


def rise(**options: object) -> nn.Module:
    torch.manual_seed(0)
    settings = {"kernel_size": 2, "stride": 2} | options
    return nn.ConvTranspose2d(4, 4, **settings)  # type: ignore[arg-type]


def fingerprint(module: nn.Module, *, path: str = "up", tensor: str = "x", size: int = 8) -> bytes | None:
    network = nn.Module()
    network.add_module(path, module)
    operand = Node(tensor, "input", shape=(3, 4, size, size), batch_dims=(0,))
    node = Node(f"{path} of {tensor}", "float_op", (Ref(tensor),), target=path)
    return kept.fingerprint(Operation(network, node), [operand], (torch.zeros(2, 4, size, size),))


def test_equal_operations_have_one_fingerprint() -> None:
    assert fingerprint(rise()) is not None
    assert fingerprint(rise()) == fingerprint(rise(), tensor="another")


def test_other_operations_have_other_fingerprints() -> None:
    trained = rise()
    trained.get_parameter("weight").data[0, 0, 0, 0] += 1
    others = [
        fingerprint(trained),
        fingerprint(rise(stride=1)),
        fingerprint(rise(), path="higher"),
        fingerprint(rise(), size=4),
        fingerprint(rise().double()),
    ]
    assert len({fingerprint(rise()), *others}) == 6


def test_modules_without_tensors_are_the_same_anywhere() -> None:
    assert fingerprint(nn.Softmin(1), path="here") == fingerprint(nn.Softmin(1), path="there")


class Weighed(nn.Module):
    """Holds tensors that no state dictionary lists."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.full((8, 1, 1), 0.5), persistent=False)
        self.offset = torch.full((8, 1, 1), 0.25)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain + self.offset  # type: ignore[operator]


def test_tensors_are_called_after_their_module() -> None:
    network = Small(lambda n, x: n.weigh(x), weigh=Weighed())
    prepared = prepare(network.eval(), "w4a4", (IMAGES,), leaf_modules=(Weighed,))
    initialize(prepared, IMAGES)
    names = {tensor.name for tensor in build_model(freeze(prepared))[0].graph.initializer}
    assert {"weigh.network.weigh.gain", "weigh.network.weigh.offset"} <= names


class Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (x.abs() + 1.0)


def test_code_of_the_users_own_has_none() -> None:
    """Nobody can tell whether it is still the same."""
    assert fingerprint(Own()) is None
    assert fingerprint(nn.Sequential(rise(), Own())) is None


def test_what_was_used_longest_ago_is_dropped_first() -> None:
    few = Translations(limit=10)
    few.keep(b"a", b"1234")
    few.keep(b"b", b"1234")
    assert few.get(b"a") == b"1234"
    few.keep(b"c", b"1234")
    assert [few.get(key) for key in (b"a", b"b", b"c")] == [b"1234", None, b"1234"]
    few.keep(b"d", b"longer than all")
    assert few.get(b"d") is None
