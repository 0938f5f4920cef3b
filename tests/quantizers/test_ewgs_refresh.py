"""The refresh of EWGS's delta: against Hessians that are known, and that it leaves no trace in the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy import UserError, initialize, prepare
from qkd_deploy.bits import TensorSpec
from qkd_deploy.distill.losses import distillation_kl
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.quantizers import ewgs_refresh
from qkd_deploy.quantizers.ewgs import EwgsQuantizer
from qkd_deploy.quantizers.ewgs_refresh import refresh_deltas, set_deltas


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Quantized(nn.Module):
    """Some weights behind an EWGS quantizer."""

    def __init__(self, count: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(count))
        self.quantizer = EwgsQuantizer(TensorSpec.weight(4))
        self.quantizer.set_scale(scale)

    def forward(self) -> Tensor:
        return self.quantizer(self.weight)  # type: ignore[no-any-return]


@pytest.mark.parametrize("scale", [0.2, 0.05])
def test_a_quadratic_has_its_known_trace(scale: float) -> None:
    """The Hessian is diagonal, so that every probe finds its trace exactly."""
    model, curvature = Quantized(40, scale), normal(40, seed=1).abs()
    refresh_deltas(model, [()], lambda: 0.5 * torch.sum(curvature * model().square()))
    discrete = model().detach()
    width = 14 * scale  # codes -7..7: from the tensor's units to [0, 1]
    trace, deviation = width**2 * float(curvature.sum()), width * float((curvature * discrete).std())
    assert float(model.quantizer.delta) == pytest.approx(trace / 40 / (3 * deviation), rel=1e-5)


def test_the_mean_over_batches_is_bounded_by_zero() -> None:
    model = Quantized(40, 0.2)

    def loss(curvature: float) -> Tensor:
        return 0.5 * curvature * torch.sum(model().square())

    def delta(*curvatures: float) -> float:
        refresh_deltas(model, [(c,) for c in curvatures], loss)
        return float(model.quantizer.delta)

    one = delta(1.0)  # its curvature divided by its gradient: the sign alone matters
    assert one > 0
    assert delta(-1.0) == 0
    assert delta(1.0, 3.0, -1.0) == pytest.approx(one / 3, rel=1e-5)
    assert delta(1.0, 3.0, 2.0, -500.0, -500.0, -500.0) == pytest.approx(one, rel=1e-5)  # three batches are read


def test_no_curvature_gives_zero() -> None:
    model = Quantized(8, 0.2)
    set_deltas(model, 0.5)
    refresh_deltas(model, [()], lambda: torch.sum(model() * normal(8, seed=1)))
    assert float(model.quantizer.delta) == 0
    set_deltas(model, 0.5)
    refresh_deltas(model, [()], lambda: torch.sum(model().detach()) + model.weight.square().sum())
    assert float(model.quantizer.delta) == 0


class Chain(nn.Module):
    """Two layers with quantized weights and a quantized activation between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)
        self.quantizers = nn.ModuleDict(
            {
                "first": EwgsQuantizer(TensorSpec.weight(3)),
                "activation": EwgsQuantizer(TensorSpec.activation(2, signed=False)),
                "second": EwgsQuantizer(TensorSpec.weight(3)),
            }
        )
        for key, scale in (("first", 0.15), ("activation", 0.3), ("second", 0.15)):
            quantizer = self.quantizers[key]
            assert isinstance(quantizer, EwgsQuantizer)
            quantizer.set_scale(scale)
            quantizer.delta.fill_(0.2)

    def forward(self, x: Tensor) -> Tensor:
        q = self.quantizers
        x = q["activation"](torch.relu(F.linear(x, q["first"](self.first.weight))))
        return F.linear(x, q["second"](self.second.weight))


def exact_deltas(model: Chain, x: Tensor, loss: Callable[[Tensor], Tensor]) -> list[float]:
    """From whole Hessians of functions without quantizers: the activation's is replaced by its linear surrogate.

    ``delta`` scales what passes back through the activation, but as a constant that both derivatives see.
    """
    q = model.quantizers
    first, second = q["first"](model.first.weight).detach(), q["second"](model.second.weight).detach()
    hidden = torch.relu(F.linear(x, first))
    discrete = q["activation"](hidden).detach()
    d = discrete.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(F.linear(d, second)), d)
    step = float(q["activation"].scale().detach())
    slope = (1 + 0.2 * gradient.sign() * (hidden - discrete) / (3 * step)) * (hidden <= 3 * step)

    def of_first(w: Tensor) -> Tensor:
        moved = F.linear(x, w) - F.linear(x, first)
        return loss(F.linear(discrete + moved * (hidden > 0) * slope, second))

    functions: list[tuple[str, Tensor, Callable[[Tensor], Tensor]]] = [
        ("first", first, of_first),
        ("activation", discrete, lambda h: loss(F.linear(h, second))),
        ("second", second, lambda w: loss(F.linear(discrete, w))),
    ]
    found = []
    for key, at, function in functions:
        hessian = torch.autograd.functional.hessian(function, at).reshape(at.numel(), at.numel())
        gradient = torch.autograd.functional.jacobian(function, at)
        width = float(q[key].scale().detach()) * (q[key].spec.hi - q[key].spec.lo)
        found.append(max(0.0, width * float(hessian.trace()) / at.numel() / (3 * float(gradient.std()))))
    return found


def test_traces_of_weights_and_activations_are_those_of_exact_hessians(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many probes, by which the estimate comes near."""
    torch.manual_seed(0)
    model, x, labels = Chain(), normal(5, 3).abs(), torch.tensor([0, 1, 1, 0, 1])
    expected = exact_deltas(model, x, lambda logits: F.cross_entropy(logits, labels))
    assert min(expected) > 0
    monkeypatch.setattr(ewgs_refresh, "PROBES", 3000)
    monkeypatch.setattr(ewgs_refresh, "TOLERANCE", 0.0)
    refresh_deltas(model, [(x, labels)], lambda x, labels: F.cross_entropy(model(x), labels))
    got = [float(q.delta) for q in model.quantizers.values() if isinstance(q, EwgsQuantizer)]
    assert got == pytest.approx(expected, rel=0.05)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second, self.norm2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.pool, self.drop = nn.MaxPool2d(2), nn.Dropout(0.2)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.pool(torch.relu(x + self.norm2(self.second(x))))
        return self.head(self.drop(x.mean((2, 3))))  # type: ignore[no-any-return]


IMAGES, LABELS = normal(24, 3, 8, 8), torch.arange(24) % 4
BATCHES = [(IMAGES[i : i + 8], LABELS[i : i + 8]) for i in (0, 8, 16)]


def prepared(quantizer: str = "ewgs") -> PreparedModel:
    torch.manual_seed(0)
    model = prepare(Network(), "w4a4", (IMAGES,), quantizer=quantizer)
    initialize(model, IMAGES)
    return model


def deltas(model: PreparedModel) -> list[float]:
    return [float(module.delta) for module in model.modules() if isinstance(module, EwgsQuantizer)]


def refreshed(model: PreparedModel, seed: int | None = None) -> list[float]:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    refresh_deltas(model, BATCHES, lambda x, y: F.cross_entropy(model(x), y), generator)
    return deltas(model)


def test_networks_of_all_constructs_get_usable_deltas_that_a_seed_decides() -> None:
    def found(seed: int | None) -> list[float]:
        model = prepared()
        torch.manual_seed(3)  # of the dropout
        return refreshed(model, seed)

    first = found(0)
    assert all(0 <= delta < 10 for delta in first) and any(delta > 0 for delta in first)
    assert found(0) == first
    assert found(1) != first
    assert found(None) == first  # the probes' own seed


def test_everything_else_is_left_as_it_was() -> None:
    model = prepared().train()
    model.network.get_submodule("norm").eval()
    F.cross_entropy(model(IMAGES), LABELS).backward()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    refreshed(model)
    after = model.state_dict()
    changed = [key for key in state if not torch.equal(state[key], after[key])]
    assert changed and all(key.endswith(".delta") for key in changed)
    for before, parameter in zip(gradients, model.parameters(), strict=True):
        assert (before is None) == (parameter.grad is None)
        assert before is None or parameter.grad is None or torch.equal(before, parameter.grad)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(random, torch.get_rng_state())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_failing_loss_leaves_everything_as_it_was() -> None:
    model = prepared().eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}

    def loss(x: Tensor, _: Tensor) -> Tensor:
        model(x)
        raise RuntimeError("no such class")

    with pytest.raises(RuntimeError, match="no such class"):
        refresh_deltas(model, BATCHES, loss)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not model.training and not any(module._forward_hooks for module in model.modules())


def test_a_loss_without_labels_will_do() -> None:
    model, teacher = prepared(), Network().eval()

    def loss(x: Tensor) -> Tensor:
        with torch.no_grad():
            target = teacher(x)
        return distillation_kl(model(x), target, 4.0)

    refresh_deltas(model, [(x,) for x, _ in BATCHES], loss)
    assert any(delta > 0 for delta in deltas(model))


def test_one_backward_pass_per_probe_serves_all_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    ordinary = torch.autograd.grad

    def counted(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(inputs))
        return ordinary(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    model = prepared()
    refreshed(model)
    assert len(calls) <= 3 * (1 + 50)
    assert set(calls) == {len(deltas(model))}


def test_what_cannot_be_refreshed_is_refused() -> None:
    model = prepared("lsq")
    for call in (lambda: refresh_deltas(model, BATCHES, F.cross_entropy), lambda: set_deltas(model, 0.1)):
        with pytest.raises(UserError, match="no EWGS quantizers"):
            call()
    ewgs = prepared()

    def nothing() -> Iterator[tuple[Tensor, Tensor]]:
        return iter(())

    with pytest.raises(UserError, match="no batch"):
        refresh_deltas(ewgs, nothing(), lambda x, y: F.cross_entropy(ewgs(x), y))
    for value in (-0.1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="must be 0 or more"):
            set_deltas(ewgs, value)
