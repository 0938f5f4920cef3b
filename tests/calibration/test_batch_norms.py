"""Batch norms estimated anew: the exact average over the batches, on quantized inputs, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qkd_deploy import UserError, initialize, prepare
from qkd_deploy.calibration.batch_norms import reestimate_batch_norms
from qkd_deploy.graph.prepared import PreparedModel

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [torch.randn(8, 3, 6, 6, generator=GENERATOR) * scale for scale in (1.0, 2.0, 0.5)]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Dropout(0.9), nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2),
    )  # fmt: skip


def prepared_network() -> PreparedModel:
    prepared = prepare(network(), "w4a4", (BATCHES[0],))
    initialize(prepared, BATCHES[0])
    return prepared


def norm(prepared: PreparedModel, name: str) -> nn.BatchNorm2d:
    module = prepared.network.get_submodule(name)
    assert isinstance(module, nn.BatchNorm2d)
    return module


def test_statistics_are_the_average_over_the_batches() -> None:
    prepared = prepared_network()
    first = next(node for node in prepared.layers() if node.target == "0")
    layer = prepared.network.get_submodule("0")
    assert isinstance(layer, nn.Conv2d) and first.source is not None
    outputs: list[Tensor] = []
    for batch in BATCHES:
        quantized = prepared.activation(first.source)(batch)
        outputs.append(nn.functional.conv2d(quantized, prepared.weight(first)(layer.weight), layer.bias).detach())
    assert reestimate_batch_norms(prepared, BATCHES) == 2
    mean, variance = norm(prepared, "1").running_mean, norm(prepared, "1").running_var
    assert mean is not None and variance is not None
    torch.testing.assert_close(mean, torch.stack([v.mean((0, 2, 3)) for v in outputs]).mean(0))
    torch.testing.assert_close(variance, torch.stack([v.var((0, 2, 3)) for v in outputs]).mean(0))


def test_nothing_else_changes() -> None:
    prepared = prepared_network()
    prepared.train()
    prepared.network.get_submodule("5").eval()  # as a user may have frozen it
    modes = [module.training for module in prepared.modules()]
    before = {name: value.clone() for name, value in prepared.state_dict().items()}
    reestimate_batch_norms(prepared, iter([(batch, "labels") for batch in BATCHES]))
    changed = {name for name, value in prepared.state_dict().items() if not torch.equal(value, before[name])}
    counters = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"network.{layer}.{name}" for layer in (1, 5) for name in counters}
    assert [module.training for module in prepared.modules()] == modes
    assert (norm(prepared, "1").momentum, norm(prepared, "5").momentum) == (0.3, 0.1)
    assert all(parameter.grad is None for parameter in prepared.parameters())


def test_it_is_repeatable_in_spite_of_dropout_and_of_what_was_there() -> None:
    one, two = prepared_network(), prepared_network()
    norm(two, "1").running_mean = torch.full((4,), 77.0)
    for prepared in (one, two):
        reestimate_batch_norms(prepared, BATCHES)
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), two.buffers(), strict=True))


def test_networks_without_batch_norms_take_no_batch() -> None:
    prepared = prepare(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "w4a4", (BATCHES[0],))
    batches = iter(BATCHES)
    assert reestimate_batch_norms(prepared, batches) == 0
    assert len(list(batches)) == 3


def test_no_batches_are_refused_and_leave_the_statistics() -> None:
    prepared = prepared_network()
    before = [buffer.clone() for buffer in prepared.buffers()]
    with pytest.raises(UserError, match="nothing to estimate batch norms with"):
        reestimate_batch_norms(prepared, [])
    assert all(torch.equal(a, b) for a, b in zip(prepared.buffers(), before, strict=True))
