"""Prepared and frozen models at other sizes of images than their examples': right, or refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.calibration.float_reference import FloatReference
from qkd_deploy.errors import UserError
from qkd_deploy.graph.interpreter import start
from qkd_deploy.graph.prepared import PreparedModel

Behind = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """Two convolutions, a function behind them, and a third convolution that reads its codes, or a linear layer."""

    def __init__(self, behind: Behind, last: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 1, 1)
        self.norm, self.behind, self.last = nn.BatchNorm2d(16), behind, last or nn.Identity()

    def forward(self, x: Tensor) -> Any:
        return self.last(self.behind(self.norm(self.second(F.relu(self.first(x))))))


WORKING: dict[str, tuple[Behind, nn.Module | None]] = {
    "pixel shuffle": (lambda y: F.pixel_shuffle(y, 2), nn.Conv2d(4, 5, 3)),
    "pixel unshuffle": (lambda y: F.pixel_unshuffle(y, 2), nn.Conv2d(64, 5, 3)),
    "channel shuffle": (lambda y: nn.ChannelShuffle(4)(y), nn.Conv2d(16, 5, 3)),
    "average pool to 4": (lambda y: F.adaptive_avg_pool2d(y, 4), nn.Conv2d(16, 5, 3)),
    "max pool to 2 x 4": (lambda y: F.adaptive_max_pool2d(y, (2, 4)), nn.Conv2d(16, 5, 1)),
    "pool to 1": (lambda y: F.adaptive_avg_pool2d(y, 1).flatten(1), nn.Linear(16, 5)),
    "crop": (lambda y: y[:, :, 2:-2, 3:-1], nn.Conv2d(16, 5, 3)),
    "flip": (lambda y: y.flip(2, 3), nn.Conv2d(16, 5, 3)),
    "second half": (lambda y: y[..., y.shape[3] // 2 :], nn.Conv2d(16, 5, 3)),
    "halves": (lambda y: torch.cat([part * 0.5 for part in y.chunk(2, 3)], 1), nn.Conv2d(32, 5, 3)),
    "roll": (lambda y: y.roll((3, -2), (2, 3)), nn.Conv2d(16, 5, 3)),
    "softmax over places": (lambda y: y.flatten(2).softmax(2), None),
    "sum over places": (lambda y: y.sum((2, 3)), nn.Linear(16, 5)),
    "mean over places": (lambda y: y.mean((2, 3)), nn.Linear(16, 5)),
    "mean over rows": (lambda y: y.mean(2), nn.Conv1d(16, 5, 3)),
    "largest of places": (lambda y: y.amax((2, 3)), nn.Linear(16, 5)),
    "twice the size": (lambda y: F.interpolate(y, scale_factor=2), nn.Conv2d(16, 5, 3)),
    "to another tensor's size": (lambda y: F.interpolate(F.max_pool2d(y, 2), size=y.shape[2:]) + y, None),
    "bilinear to another's size": (
        lambda y: F.interpolate(F.max_pool2d(y, 2), size=y.shape[2:], mode="bilinear"),
        nn.Conv2d(16, 5, 3),
    ),
    "flatten and back": (lambda y: (y.flatten(2) * 0.5).reshape(y.shape), nn.Conv2d(16, 5, 3)),
    "tokens": (lambda y: y.flatten(2).transpose(1, 2), nn.Linear(16, 5)),
    "a ramp": (lambda y: y * torch.arange(y.shape[3]) / y.shape[3], nn.Conv2d(16, 5, 3)),
    "attention over places": (lambda y: y.flatten(2).mT @ y.flatten(2), None),
}


def images(height: int, width: int, count: int = 3) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height))


def prepared_at(net: nn.Module, x: Tensor, settings: dict[str, Any] | None = None) -> PreparedModel:
    return qkd.prepare(net, "w8a8", (x,), **settings or {})


def trained(net: nn.Module, x: Tensor, **settings: Any) -> PreparedModel:
    """A model with scales, and with statistics that a batch in train mode has moved."""
    prepared = prepared_at(net, x, settings)
    qkd.initialize(prepared, x)
    prepared.train()(x)
    return prepared.eval()


@pytest.mark.parametrize("name", WORKING)
def test_a_model_is_what_it_would_be_if_it_had_been_prepared_at_that_size(name: str) -> None:
    net, other = Net(*WORKING[name]), images(8, 24)
    prepared = trained(net, images(16, 16))
    same = prepared_at(net, other).eval()
    same.load_state_dict(prepared.state_dict())
    for model, direct in ((prepared, same), (qkd.freeze(prepared), qkd.freeze(same))):
        assert torch.equal(model(other), direct(other))
        assert model(other).shape == net(other).shape


def test_training_on_several_sizes_moves_the_same_weights_and_statistics() -> None:
    net = Net(lambda y: y[:, :, 1:-1, 1:-1].mean((2, 3)), nn.Linear(16, 5))
    prepared = trained(net, images(16, 16)).train()
    same = prepared_at(net, images(8, 24))
    same.load_state_dict(prepared.state_dict())
    prepared(images(8, 24)).sum().backward()
    same.train()(images(8, 24)).sum().backward()
    state = same.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in prepared.state_dict().items())
    for one, two in zip(prepared.parameters(), same.parameters(), strict=True):
        assert (one.grad is None and two.grad is None) or torch.equal(one.grad, two.grad)  # type: ignore[arg-type]


def test_calibration_and_its_reference_take_several_sizes() -> None:
    net = Net(lambda y: y.flip(3), nn.Conv2d(16, 5, 3))
    prepared = prepared_at(net, images(16, 16))
    qkd.calibrate(prepared, [images(16, 16), images(8, 24)])
    seen: list[tuple[int, ...]] = []
    FloatReference(prepared).run((images(8, 24),), lambda node, x, value: seen.append(tuple(value.shape)))
    assert seen[-1] == (3, 5, 6, 22)


def test_a_copy_and_a_frozen_copy_stay_as_they_are() -> None:
    """Copies know other sizes too, and later training of the original does not reach them."""
    net = Net(lambda y: y * torch.arange(y.shape[3]) / 16, nn.Conv2d(16, 5, 3))
    prepared, other = trained(net, images(16, 16)), images(8, 24)
    frozen, copied = qkd.freeze(prepared), copy.deepcopy(prepared)
    expected = frozen(other), copied(other)
    with torch.no_grad():
        for parameter in prepared.parameters():
            parameter.mul_(1.5)
    again = copy.deepcopy(frozen)(other), copy.deepcopy(copied)(other)
    assert all(torch.equal(*pair) for pair in zip(expected, again, strict=True))
    assert not torch.equal(prepared(other), expected[1])
    assert not any("_at_" in name for name in (*prepared.state_dict(), *frozen.state_dict()))


def test_codes_at_another_size_are_those_of_the_preview() -> None:
    from qkd_deploy.graph.integer.preview import preview_codes

    prepared = trained(Net(lambda y: y.sum((2, 3)), nn.Linear(16, 5)), images(16, 16))
    found = list(preview_codes(prepared, qkd.freeze(prepared), images(8, 24)))
    assert len(found) > 3
    assert all((one == two).all() for _, one, two in found)


class Windows(nn.Module):
    """Average pools whose windows have several sizes unless 4 divides the image: then they stay in float."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 4)


class Rows(nn.Module):
    """As many steps as the image has rows of 8."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(x.shape[2] // 8):
            x = F.relu(x + 1)
        return x


class Turned(nn.Module):
    """Another operation for wide images than for others."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2) if x.shape[3] <= 16 else F.avg_pool2d(x, 2)


@pytest.mark.parametrize(
    ("behind", "size", "named"),
    [
        (Windows(), (18, 16), "adaptive_avg_pool2d"),
        (Rows(), (24, 16), "behind.add"),
        (Turned(), (16, 24), "behind.avg_pool2d"),
        (lambda y: F.interpolate(F.max_pool2d(y, 2), size=(16, 16)), (24, 24), "interpolate"),
    ],
)
def test_what_would_be_computed_in_another_way_is_refused_by_name(
    behind: Behind, size: tuple[int, int], named: str
) -> None:
    net = Net(behind, nn.Conv2d(16, 5, 3))
    prepared = trained(net, images(16, 16))
    for model in (prepared, qkd.freeze(prepared), prepared.train()):
        with pytest.raises(UserError, match=f"{named}.* for inputs of 3 x {size[0]} x {size[1]} than .*3 x 16 x 16"):
            model(images(*size))
    assert trained(net, images(*size))(images(*size)).shape == net(images(*size)).shape  # the way out


@pytest.mark.parametrize(
    ("last", "given", "named"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(4096, 5)), images(8, 8), r"last\.1 \(Linear\)"),
        (nn.Conv2d(16, 5, 3), images(16, 16)[:, :1], r"first \(Conv2d\)"),
        (nn.Conv2d(16, 5, 3), 16, "int"),
    ],
)
def test_what_the_network_does_not_take_is_refused_by_name(last: nn.Module, given: Any, named: str) -> None:
    prepared = trained(Net(lambda y: y, last), images(16, 16))
    for model in (prepared, qkd.freeze(prepared)):
        with pytest.raises(UserError, match=rf"prepared with inputs of 3 x 16 x 16 and does not take .*{named}"):
            model(given)


def test_a_graph_alone_takes_no_other_sizes() -> None:
    prepared = prepared_at(Net(lambda y: y), images(16, 16))
    with pytest.raises(ValueError, match="takes inputs of 3 x 16 x 16, got 3 x 8 x 24"):
        start(prepared.graph, (images(8, 24),))


def test_a_signed_input_stays_signed_when_other_sizes_come_without_negative_pixels() -> None:
    prepared = trained(Net(lambda y: y, nn.Conv2d(16, 5, 3)), images(16, 16))
    assert prepared(images(8, 24).abs()).shape == (3, 5, 6, 22)
