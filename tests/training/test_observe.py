from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from epochs import RECORD
from torch import Tensor
from watched import images, prepared

from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.quantizers.registry import QUANTIZERS
from qkd_deploy.training.monitoring.observation import TensorObservation
from qkd_deploy.training.monitoring.quantizer_monitor import QuantizerMonitor


def named(model: PreparedModel, observer: QuantizerMonitor | None = None) -> dict[str, TensorObservation]:
    return {tensor.name: tensor for tensor in (observer or QuantizerMonitor(model)).observe(images()).tensors}


def values_before_quantizers(model: PreparedModel) -> dict[str, Tensor]:
    """What the quantizers of activations see when the model is simply called in evaluation mode."""
    seen: dict[str, Tensor] = {}
    names = {node.quantizer: node.name for node in model.graph.nodes if node.quantizer is not None}
    hooks = [
        quantizer.register_forward_pre_hook(lambda _, args, key=key: seen.__setitem__(names[key], args[0]))
        for key, quantizer in model.activations.items()
    ]
    with torch.no_grad():
        model.eval()(images())
    for hook in hooks:
        hook.remove()
    return seen


def test_tensors_have_the_names_of_the_users_modules() -> None:
    assert list(named(prepared())) == [
        "first.weight",
        "shared.weight",  # once, although it is called twice
        "fc.weight",
        "x",
        "first",
        "first.a4",
        "shared",
        "shared_2",
        "add",
        "mean",
        "noise",
    ]


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_counts_and_clipping_are_those_of_every_single_value(quantizer: str) -> None:
    model = prepared(quantizer=quantizer)
    for part in model.activations.values():  # make some values clip, on both sides where the grid has two
        if not part.fixed:
            part.set_scale(part.scale().item() / 8)
    torch.manual_seed(5)
    values = values_before_quantizers(model)
    torch.manual_seed(5)
    found = named(model)
    clipped = 0
    for node in model.graph.nodes:
        if node.quantizer is None:
            continue
        part, seen, value = model.activation(node.quantizer), found[node.name], values[node.name]
        codes = part.codes(value).numpy().astype(int)
        expected = {int(code): int(count) for code, count in zip(*np.unique(codes, return_counts=True), strict=True)}
        assert {seen.lo + i: count for i, count in enumerate(seen.counts) if count} == expected
        assert len(seen.counts) == 2**seen.bits == part.spec.hi - part.spec.lo + 1
        assert seen.levels_used == len(expected) / len(seen.counts)
        exact = value.double().numpy() / part.scale().item()
        assert seen.below == (exact < part.spec.lo - 0.5).mean()
        assert seen.above == (exact > part.spec.hi + 0.5).mean()
        assert seen.scale == part.scale().item()
        clipped += seen.clipped > 0
    assert clipped >= 4


def test_weights_are_observed_too() -> None:
    model = prepared("w2a4")
    seen = named(model)["shared.weight"]
    codes = model.weight(model.layers()[1]).codes(model.network.shared.weight)  # type: ignore[union-attr, arg-type]
    assert seen.kind == "weight" and seen.bits == 2 and seen.lo == -1
    assert seen.counts == tuple(int((codes == code).sum()) for code in (-1, 0, 1))


def test_weight_only_models_have_weights_only() -> None:
    assert list(named(prepared("w2a32"))) == ["first.weight", "shared.weight", "fc.weight"]


def test_movement_is_counted_from_the_last_observation() -> None:
    model = prepared()
    observer = QuantizerMonitor(model)
    part = model.activation(next(n.quantizer for n in model.graph.nodes if n.name == "add") or "")
    part.set_scale(part.scale().item() * 2)
    first, second = named(model, observer), named(model, observer)
    assert first["add"].movement == pytest.approx(math.log(2), rel=1e-5)
    assert {name for name, tensor in first.items() if tensor.movement} == {"add"}
    assert not any(tensor.movement for tensor in second.values())


def test_the_model_and_the_random_state_stay_as_they_are() -> None:
    model = prepared()
    model.network.norm.eval()  # a user keeps these statistics fixed
    modes = [part.training for part in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    QuantizerMonitor(model).observe(images())
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in model.modules()] == modes and False in modes and True in modes
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_values_that_are_no_numbers_do_not_stop_a_run() -> None:
    model = prepared()
    bad = images()
    bad[0, 0, 0, 0] = float("nan")
    tensors = {tensor.name: tensor for tensor in QuantizerMonitor(model).observe(bad).tensors}
    assert sum(tensors["x"].counts) == bad.numel() - 1


def test_a_record_gets_the_summary() -> None:
    observation = QuantizerMonitor(prepared()).observe(images())
    record = observation.added_to(RECORD)
    assert record.accuracy == RECORD.accuracy and record.losses == RECORD.losses
    for tensor in observation.tensors:
        assert record.steps[tensor.name] == pytest.approx(tensor.scale, rel=1e-5)
        assert record.clipped[tensor.name] == pytest.approx(tensor.clipped, abs=1e-6)
        assert record.levels_used[tensor.name] == pytest.approx(tensor.levels_used, abs=1e-6)


def test_noise_is_what_rounding_and_clipping_take() -> None:
    model = prepared()
    found = named(model)
    values = values_before_quantizers(model)
    compared = 0
    for node in model.graph.nodes:
        if node.quantizer is None or node.name == "noise":
            continue
        part, value = model.activation(node.quantizer), values[node.name].double()
        error = value - part.codes(value.float()).double() * part.scale().detach().double()
        expected = 10 * math.log10(value.square().sum() / error.square().sum()) if error.any() else math.inf
        assert found[node.name].snr == pytest.approx(expected, abs=1e-3)
        compared += math.isfinite(expected)
    assert compared >= 5


def test_weights_are_seen_without_images() -> None:
    model = prepared()
    alone, with_images = QuantizerMonitor(model).observe_weights().tensors, named(model)
    assert [tensor.name for tensor in alone] == ["first.weight", "shared.weight", "fc.weight"]
    assert all(tensor == with_images[tensor.name] for tensor in alone)


@pytest.mark.parametrize(("code", "expected"), [(0.0, math.nan), (3.0, math.inf)])
def test_tensors_without_signal_or_without_noise(code: float, expected: float) -> None:
    model = prepared()
    (layer,) = [node for node in model.layers() if node.target == "fc"]
    with torch.no_grad():
        model.network.get_parameter("fc.weight").copy_(code * model.weight(layer).scale().reshape(-1, 1))
    assert named(model)["fc.weight"].snr == pytest.approx(expected, nan_ok=True)
