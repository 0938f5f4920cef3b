"""Networks with several inputs and outputs, in any nesting."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from deployment import noise
from placement import IMAGES, check
from torch import Tensor, nn

from qkd_deploy import initialize, prepare
from qkd_deploy.errors import UserError

OTHER = noise(3, 3, 8, 8, seed=1)


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2), nn.Linear(8, 4)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low = F.relu(self.a(x))
        high = F.relu(self.b(low))
        return low, high, self.head(high.mean((2, 3)))


class TwoInputs(Backbone):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.features(x)[2] + self.features(y)[2]


def test_two_inputs() -> None:
    deployed = check(TwoInputs(), (IMAGES, OTHER * 3))
    assert [value.name for value in deployed.model.graph.input] == ["x", "y"]
    assert deployed.prepared.activation("x").step is not deployed.prepared.activation("y").step


class Tuple(Backbone):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.features(x)


def test_tuple_of_outputs() -> None:
    deployed = check(Tuple())
    assert isinstance(deployed.frozen(IMAGES), tuple)
    assert len(deployed.model.graph.output) == 3


class Dictionary(Backbone):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        low, _, logits = self.features(x)
        return {"low": low, "logits": logits}


def test_dictionary_of_outputs_names_them() -> None:
    deployed = check(Dictionary())
    assert set(deployed.frozen(IMAGES)) == {"low", "logits"}
    assert [value.name for value in deployed.model.graph.output] == ["low", "logits"]


class Nested(Backbone):
    def forward(self, x: Tensor) -> dict[str, object]:
        low, high, logits = self.features(x)
        return {"pyramid": [low, (high, low)], "logits": logits}


def test_nested_outputs_and_one_tensor_returned_twice() -> None:
    deployed = check(Nested())
    result = deployed.frozen(IMAGES)
    assert torch.equal(result["pyramid"][0], result["pyramid"][1][1])
    assert len(deployed.model.graph.output) == 4


class Named(NamedTuple):
    logits: Tensor
    features: Tensor


class NamedOutputs(Backbone):
    def forward(self, x: Tensor) -> Named:
        low, _, logits = self.features(x)
        return Named(logits, low)


def test_named_tuple() -> None:
    prepared = prepare(NamedOutputs(), "w4a4", (IMAGES,))
    initialize(prepared, IMAGES)
    assert isinstance(prepared(IMAGES), Named)


def test_input_read_by_two_branches() -> None:
    class Plain(Backbone):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Conv2d(3, 8, 3, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((F.relu(self.b(F.relu(self.a(x)))) + self.c(x)).mean((2, 3)))  # type: ignore[no-any-return]

    check(Plain())


def test_input_added_to_a_convolution() -> None:
    class Global(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.b(F.relu(self.a(x)))  # type: ignore[no-any-return]

    check(Global())


def test_unused_input_stays_in_the_signature() -> None:
    class Unused(Backbone):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.features(x)[2]

    deployed = check(Unused(), (IMAGES, OTHER))
    assert [value.name for value in deployed.model.graph.input] == ["x", "y"]


def test_input_returned_as_it_is() -> None:
    class PassedOn(Backbone):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return self.features(x)[2], y

    deployed = check(PassedOn(), (IMAGES, OTHER))
    assert torch.equal(deployed.frozen(IMAGES, OTHER)[1], OTHER)


def test_positive_inputs_get_an_unsigned_grid() -> None:
    prepared = prepare(Tuple(), "w4a4", (IMAGES.abs(),))
    assert not prepared.activation("x").spec.signed
    assert prepare(Tuple(), "w4a4", (IMAGES,)).activation("x").spec.signed


class WithOptions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None) -> Tensor:
        x = self.conv(x) * scale
        if mask is not None:
            x = x * mask
        return self.head(x.mean((2, 3)))


def test_arguments_without_example_keep_their_defaults() -> None:
    images = torch.randn(2, 3, 8, 8)
    prepared = prepare(WithOptions(), "w8a8", (images,))
    assert prepared.graph.inputs == ["x"]
    initialize(prepared, images)
    assert prepared.eval()(images).shape == (2, 5)


def test_dropout_that_is_always_on_is_refused() -> None:
    class AlwaysOn(WithOptions):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return self.head(nn.functional.dropout(self.conv(x).mean((2, 3))))

    with pytest.raises(UserError, match=r"dropout drops values in eval mode.*training=self\.training"):
        prepare(AlwaysOn(), "w8a8", (torch.randn(2, 3, 8, 8),))


def test_activation_behind_the_last_linear_layer_runs_in_integers() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU())
    account = prepare(network, "w4a4", (torch.randn(2, 3, 2, 2),)).account
    assert account.entries[-1].bits == "w8a8"
    assert not account.floats


def test_a_computed_list_of_parts_is_concatenated() -> None:
    class Computed(WithOptions):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return self.head(torch.cat(self.conv(x).chunk(2, 1)[::-1], 1).mean((2, 3)))

    assert prepare(Computed(), "w8a8", (torch.randn(2, 3, 8, 8),)).account.floats == ()
