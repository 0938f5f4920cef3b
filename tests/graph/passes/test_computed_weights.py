"""Layers whose weights are computed: integer, trained through what computes them, and exact."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deployment import assert_same_codes, finish, noise, settle
from placement import IMAGES, Small, check, unquantized
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from qkd_deploy import freeze, initialize, prepare
from qkd_deploy.calibration.own_layers import own_layers
from qkd_deploy.graph.ops.layers import layer_of, layer_parameters
from qkd_deploy.graph.prepared import PreparedModel

Function = Callable[[Any], Any]


class Computing(nn.Conv2d):
    """A convolution with a function of its weights."""

    def __init__(self, function: Function) -> None:
        super().__init__(8, 8, 3, padding=1)
        self.function = function

    def forward(self, input: Tensor) -> Tensor:
        weight = self.function(self.weight)
        return F.conv2d(input, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def by_var_mean(weight: Any) -> Any:
    variance, mean = torch.var_mean(weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
    return (weight - mean) / torch.sqrt(variance + 1e-5)


def by_std_mean(weight: Any) -> Any:
    deviation, mean = torch.std_mean(weight, dim=(1, 2, 3), keepdim=True)
    return (weight - mean) / (deviation + 1e-5)


def by_mean_and_std(weight: Any) -> Any:
    return (weight - weight.mean((1, 2, 3), keepdim=True)) / (weight.std((1, 2, 3), keepdim=True) + 1e-5)


def by_batch_norm(weight: Any) -> Any:
    return F.batch_norm(weight.reshape(1, 8, -1), None, None, training=True, momentum=0.0).reshape_as(weight)


STANDARDISED: dict[str, Function] = {
    "var_mean": by_var_mean,
    "std_mean": by_std_mean,
    "mean and std": by_mean_and_std,
    "batch norm of the weight": by_batch_norm,
    "transposed": lambda weight: weight.transpose(0, 1),
    "scaled": lambda weight: weight * 0.5,
    "binary": lambda weight: torch.tanh(weight * 9) * weight.abs().mean((1, 2, 3), keepdim=True),
    "a sum of two parts": lambda weight: torch.cat([weight[:4] + weight[4:], weight[4:]]),
}


class Symmetric(nn.Module):
    """A parametrization of one's own: kernels equal to their mirror image."""

    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.flip(-1)) / 2


def conv() -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, padding=1)


def parametrized(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def pruned_twice(layer: nn.Module) -> nn.Module:
    prune.random_structured(prune.l1_unstructured(layer, "weight", 0.5), "weight", 0.25, dim=0)  # type: ignore[no-untyped-call]
    prune.random_unstructured(layer, "bias", 0.5)  # type: ignore[no-untyped-call]
    return layer


def hooked(layer: Any) -> nn.Module:
    layer.register_parameter("raw", nn.Parameter(layer.weight.detach().clone()))
    del layer.weight

    def compute(module: Any, inputs: Any) -> None:
        module.weight = module.raw * 2

    layer.register_forward_pre_hook(compute)
    return layer  # type: ignore[no-any-return]


MADE: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "a parametrization of one's own": parametrized,
    "two parametrizations": lambda layer: parametrized(parametrizations.weight_norm(layer)),
    "old weight norm": torch.nn.utils.weight_norm,
    "old spectral norm": torch.nn.utils.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),  # type: ignore[no-untyped-call]
    "pruned twice, the bias too": pruned_twice,
    "a hook of one's own": hooked,
    "pruned of a derived class": lambda layer: prune.ln_structured(Computing(by_std_mean), "weight", 0.5, 2, 0),  # type: ignore[no-untyped-call]
}


@pytest.mark.parametrize("case", STANDARDISED)
def test_a_layer_runs_in_integers_whose_weight_is(case: str) -> None:
    check(Small(lambda n, x: torch.relu(n.conv(x)), conv=Computing(STANDARDISED[case])), bits="w4a4")


CALLED = ("weight norm", "old weight norm", "old spectral norm", "pruned", "a hook of one's own")


@pytest.mark.parametrize(("case", "called"), [*((case, False) for case in MADE), *((case, True) for case in CALLED)])
def test_a_layer_runs_in_integers_that_is(case: str, called: bool) -> None:
    network = settle(Small(lambda n, x: torch.relu(n.conv(x)), conv=MADE[case](conv())))
    if called:
        network(IMAGES)  # leaves tensors with a history in the modules
    prepared = prepare(network, "w8a8", (IMAGES,))
    initialize(prepared, IMAGES)
    assert not prepared.account.floats
    with torch.no_grad():
        torch.testing.assert_close(unquantized(prepared, IMAGES), network(IMAGES), atol=1e-5, rtol=1e-4)
    assert [*prepared.network.state_dict()] == [*network.state_dict()]
    trained = train(prepared)
    assert trained >= {name for name, p in network.conv.named_parameters(prefix="conv") if "bias" not in name}
    assert not assert_same_codes(finish(prepared.eval()), (IMAGES,))


def train(prepared: PreparedModel) -> set[str]:
    """A few steps; returns the names of the parameters that they moved."""
    before = {name: parameter.detach().clone() for name, parameter in prepared.network.named_parameters()}
    optimizer = torch.optim.SGD(prepared.train().parameters(), 0.05)
    for seed in range(2):
        optimizer.zero_grad()
        prepared(noise(4, 3, 8, 8, seed=seed)).square().mean().backward()
        optimizer.step()
    return {name for name, p in prepared.network.named_parameters() if not torch.equal(p, before[name])}


def test_masked_weights_stay_zero_through_training_and_in_the_codes() -> None:
    layer = prune.l1_unstructured(conv(), "weight", 0.5)  # type: ignore[no-untyped-call]
    prepared = prepare(Small(lambda n, x: torch.relu(n.conv(x)), conv=layer), "w4a4", (IMAGES,))
    initialize(prepared, IMAGES)
    train(prepared)
    frozen = freeze(prepared.eval())
    (node,) = [node for node in frozen.graph.nodes if node.is_layer and node.module == "conv"]
    assert not frozen.layer(node).codes[layer.weight_mask == 0].any()


def test_spectral_norm_goes_on_estimating_in_training_and_stops_in_evaluation() -> None:
    layer = parametrizations.spectral_norm(conv())
    prepared = prepare(Small(lambda n, x: torch.relu(n.conv(x)), conv=layer), "w8a8", (IMAGES,))
    initialize(prepared, IMAGES)
    estimates = {name: value for name, value in prepared.network.named_buffers() if name.endswith("._u")}
    assert estimates
    before = copy.deepcopy(estimates)
    prepared.eval()(IMAGES)
    freeze(prepared.train())
    assert all(torch.equal(value, before[name]) for name, value in estimates.items())
    train(prepared)
    assert all(not torch.equal(value, before[name]) for name, value in estimates.items())


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_other_layers_compute_their_weights_too(kind: str) -> None:
    if kind == "linear":
        layer: nn.Module = parametrizations.weight_norm(nn.Linear(64, 64))
        check(Small(lambda n, x: torch.relu(n.one(x.flatten(2))).unflatten(2, (8, 8)), one=layer), bits="w8a8")
    else:
        layer = prune.l1_unstructured(nn.Conv1d(8, 8, 3, padding=1), "weight", 0.3)  # type: ignore[no-untyped-call]
        check(Small(lambda n, x: torch.relu(n.one(x.flatten(2))).unflatten(2, (8, 8)), one=layer), bits="w8a8")


def test_tied_weights_in_a_transposed_layer_run_in_integers() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Linear(12, 8)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.relu(self.encode(x)), self.encode.weight.t())

    check(Tied(), (noise(4, 12),), bits="w8a8")


def test_weights_that_the_input_makes_stay_in_float() -> None:
    network = Small(lambda n, x: F.conv2d(x, n.conv.weight * x.mean()), conv=nn.Conv2d(8, 8, 1))
    prepared = prepare(network, "w8a8", (IMAGES,))
    assert any("computed from the input" in found.reason for found in prepared.account.floats)


def test_constants_are_made_of_weights_in_float64() -> None:
    network = Small(lambda n, x: torch.relu(n.conv(x)), conv=Computing(by_var_mean))
    prepared = prepare(network, "w8a8", (IMAGES,))
    (node,) = [node for node in prepared.layers() if node.module == "conv"]
    exact, _ = layer_parameters(prepared.network, node, exact=True)
    assert torch.equal(exact, by_var_mean(network.conv.weight.detach().double()).float())
    assert not torch.equal(exact, layer_parameters(prepared.network, node)[0])
    assert layer_of(prepared.network, node).padding == (1, 1)


def test_reconstruction_leaves_computed_weights_alone() -> None:
    prepared = prepare(Small(lambda n, x: torch.relu(n.conv(x)), conv=Computing(by_var_mean)), "w8a8", (IMAGES,))
    initialize(prepared, IMAGES)
    assert own_layers(prepared) == {"stem", "second", "head"}


@pytest.mark.parametrize("pattern", ["conv", "conv.conv2d", "c*v"])
@pytest.mark.parametrize("layer", [Computing(by_std_mean), parametrizations.weight_norm(conv())], ids=["class", "norm"])
def test_overrides_call_a_layer_by_the_name_that_its_user_gave_it(layer: nn.Module, pattern: str) -> None:
    network = Small(lambda n, x: torch.relu(n.conv(x)), conv=layer)
    prepared = prepare(network, "w4a4", (IMAGES,), overrides={pattern: "w6a8"})
    (node,) = [node for node in prepared.layers() if node.module == "conv"]
    assert str(prepared.layer_bits[node.name]) == "w6a8"
    kept = prepare(network, "w4a4", (IMAGES,), overrides={"conv": "float"})
    assert not [node for node in kept.layers() if node.module == "conv"]


def test_a_trained_model_is_copied_and_its_state_loads_into_another() -> None:
    def fresh() -> PreparedModel:
        torch.manual_seed(0)
        layer = torch.nn.utils.spectral_norm(prune.l1_unstructured(Computing(by_var_mean), "bias", 0.5))  # type: ignore[no-untyped-call]
        prepared = prepare(Small(lambda n, x: torch.relu(n.conv(x)), conv=layer), "w4a4", (IMAGES,))
        initialize(prepared, IMAGES)
        return prepared

    trained, other = fresh(), fresh()
    train(trained)
    twin = copy.deepcopy(trained).eval()
    other.load_state_dict(trained.state_dict())
    with torch.no_grad():
        expected = trained.eval()(IMAGES)
        assert torch.equal(twin(IMAGES), expected) and torch.equal(other.eval()(IMAGES), expected)
