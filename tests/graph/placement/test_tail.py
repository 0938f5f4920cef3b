"""What stands between the last integer kernels and the outputs: parts of unequal size keep what they tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from deployment import noise
from torch import Tensor, nn

from qkd_deploy import calibrate, export_onnx, freeze, initialize, prepare, verify_onnx
from qkd_deploy.graph.prepared import PreparedModel

X = noise(32, 3, 16, 16, seed=3)
Ends = Callable[["Heads", Tensor, Tensor], Tensor]


class Heads(nn.Module):
    """A body with two linear heads, ``[N, 8]`` and ``[N, 6]``, and a function of theirs."""

    def __init__(self, end: Ends) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.large, self.small, self.end = nn.Linear(8, 8), nn.Linear(8, 6), end
        self.register_buffer("strides", torch.tensor([8.0, 8, 16, 16, 32, 32]))
        self.register_buffer("places", torch.linspace(0, 600, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return self.end(self, self.large(y), self.small(y))


ENDS: dict[str, tuple[Ends, Callable[[Tensor], Tensor]]] = {
    "boxes and scores": (lambda n, a, b: torch.cat([a.sigmoid() * 640, b.sigmoid()], 1), lambda y: y[:, 8:]),
    "points and confidences": (lambda n, a, b: torch.stack([a[:, :6] * 300, b], 2), lambda y: y[..., 1]),
    "mean and log-variance": (lambda n, a, b: torch.cat([a * 50, b.tanh() * 0.1], 1), lambda y: y[:, 8:]),
    "a slice of both": (lambda n, a, b: torch.cat([a * 500, b], 1)[:, 8:], lambda y: y),
    "joined twice": (lambda n, a, b: torch.cat([torch.cat([a * 500, b], 1), b], 1), lambda y: y[:, 14:]),
    "small variances": (lambda n, a, b: torch.cat([a.exp() * 300, (b - 4).exp()], 1), lambda y: y[:, 8:]),
    "places of a grid": (lambda n, a, b: (b.sigmoid() * 2 - 0.5 + n.places) * n.strides, lambda y: y % 8),
    "many classes": (lambda n, a, b: torch.cat([a] * 125, 1).softmax(1), lambda y: y),
    "rare scores": (lambda n, a, b: (b - 7).sigmoid(), lambda y: y),
    "the largest of a map": (lambda n, a, b: torch.cat([a * 500, b.amax(1, keepdim=True)], 1), lambda y: y[:, 8:]),
}


def prepared_of(network: nn.Module) -> PreparedModel:
    prepared = prepare(network.eval(), "w8a8", (X,))
    initialize(prepared, X)
    return prepared.eval()


@pytest.mark.parametrize("name", ENDS)
def test_small_parts_keep_what_they_tell(name: str, tmp_path: Path) -> None:
    end, part = ENDS[name]
    network = Heads(end)
    prepared = prepared_of(network)
    frozen, path = freeze(prepared), tmp_path / "m.onnx"
    export_onnx(prepared, path)
    report = verify_onnx(path, inputs=X.numpy(), frozen=frozen, prepared=prepared, require_integer=True, threads=(1,))
    assert report.passed, report.verdict
    assert report.differing_codes == 0
    assert report.tail
    assert not report.float_ops
    assert f"every kernel in integers but {len(report.tail)} behind the last" in report.verdict
    expected, got = part(network(X)).detach(), part(frozen(X))
    assert float((got - expected).norm() / (expected - expected.mean(0)).norm().clamp(min=1e-9)) < 0.5
    assert got.unique().numel() > 20
    account = prepared.account
    assert account.tail
    assert not account.floats
    assert "in front of the tail runs in integers" in str(account)
    assert any(remark.startswith("tail: ") for remark in account.remarks)


INTEGER_ENDS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "logits": lambda n, x: n.head(n.pool(n.conv(x))),
    "a sum of two layers": lambda n, x: n.conv(x) + n.other(x),
    "a gate in front of a layer": lambda n, x: n.other(x) + n.last(n.conv(x) * n.conv(x).sigmoid()),
    "a join in front of a layer": lambda n, x: n.last(torch.cat([n.conv(x)[:, :4], n.other(x)[:, 4:]], 1)),
    "pooled features": lambda n, x: n.pool(torch.relu(n.conv(x))),
}


class Body(nn.Module):
    def __init__(self, end: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.other, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.pool, self.head, self.end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(8, 4), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self, x)


@pytest.mark.parametrize("name", INTEGER_ENDS)
def test_what_loses_nothing_stays_in_integers(name: str) -> None:
    prepared = prepared_of(Body(INTEGER_ENDS[name]))
    assert not prepared.account.tail
    assert str(prepared.account).endswith("Everything runs in integers.")


def test_a_layer_that_stays_in_float_is_no_tail() -> None:
    """Its operand keeps the codes that integers compute."""

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.up = nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(torch.sigmoid(self.conv(x)))  # type: ignore[no-any-return]

    prepared = prepared_of(Decoder())
    assert not prepared.account.tail
    assert [entry.name for entry in prepared.account.floats] == ["up"]
    assert prepared.graph.node("sigmoid").quantizer


def test_a_state_with_scales_of_the_tail_is_taken() -> None:
    """Checkpoints of older versions have them."""
    prepared = prepared_of(Heads(ENDS["boxes and scores"][0]))
    state = prepared.state_dict()
    old = {**state, "activations.cat.step.start": torch.ones(()), "activations.sigmoid.step": torch.ones(())}
    prepared.load_state_dict(old)
    assert torch.equal(prepared(X), prepared_of(Heads(ENDS["boxes and scores"][0]))(X))


def test_the_tail_is_trained_and_calibrated() -> None:
    prepared = prepare(Heads(ENDS["boxes and scores"][0]), "w4a4", (X,))
    calibrate(prepared, [X])
    prepared.train()(X)[:, 8:].sum().backward()
    grad = prepared.network.get_submodule("small").weight.grad
    assert isinstance(grad, Tensor)
    assert bool(grad.abs().sum() > 0)
