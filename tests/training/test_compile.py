"""Compiled training: how often it compiles, which codes it computes, and bfloat16."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._inductor.compile_fx
from torch import Tensor, nn
from torch._dynamo.utils import counters

from qkd_deploy.bits import TensorSpec
from qkd_deploy.calibration.one_batch import initialize
from qkd_deploy.graph.prepare import prepare
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.quantizers.registry import QUANTIZERS
from qkd_deploy.quantizers.step import StepQuantizer
from qkd_deploy.training.loop.compiled import compile_network

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
DEVICES = [
    pytest.param("cpu", marks=needs_compiler),
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]
SETTINGS = {"eager_numerics.division_rounding": True}


class Network(nn.Module):
    """Everything that the training step has a path of its own for: batch norm, ReLU, a sum, a pool, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(x + self.norm2(self.conv2(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()
    counters.clear()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The settings of every graph that reaches the compiler, which runs it as it is."""
    seen: list[dict[str, Any]] = []

    def count(
        graph: torch.fx.GraphModule, inputs: object, config_patches: dict[str, Any], **_: object
    ) -> Callable[..., Any]:
        seen.append(config_patches)
        return graph.forward

    monkeypatch.setattr(torch._inductor.compile_fx, "compile_fx", count)
    return seen


def prepared_network(batch: Tensor) -> PreparedModel:
    torch.manual_seed(0)
    prepared = prepare(Network(), "w4a4", (batch,))
    initialize(prepared, batch)
    return prepared


def test_all_phases_of_qkd_compile_three_graphs(graphs: list[dict[str, Any]]) -> None:
    batch = torch.randn(4, 3, 6, 6)
    student, teacher = prepared_network(batch), Network()
    networks = {"student": compile_network(student), "teacher": compile_network(teacher)}
    phases = [("student",), ("student", "teacher"), ("student",)]  # self-study, co-study, tutor
    for learning in phases:
        for _epoch in range(2):
            student.train("student" in learning)
            teacher.train("teacher" in learning)
            for _batch in range(2):
                outputs = []
                for name, network in networks.items():
                    with torch.set_grad_enabled(name in learning):
                        outputs.append(network(torch.randn_like(batch)))
                sum(output.sum() for output in outputs if output.requires_grad).backward()  # type: ignore[union-attr]
            student.eval()
            with torch.no_grad():
                student(batch)
    # the student in train mode; the teacher in evaluation mode without gradients, and in train mode
    assert [settings.items() >= SETTINGS.items() for settings in graphs] == [True] * 3
    assert counters["stats"]["unique_graphs"] == 3
    assert not counters["graph_break"]


def test_moved_steps_and_weights_compile_nothing_anew(graphs: list[dict[str, Any]]) -> None:
    batch = torch.randn(4, 3, 6, 6)
    prepared = prepared_network(batch).train()
    network = compile_network(prepared)
    optimizer = torch.optim.SGD(prepared.parameters(), lr=1e-3)
    for factor in (1.0, 0.5, 0.1):
        optimizer.param_groups[0]["lr"] = 1e-3 * factor
        optimizer.zero_grad()
        network(batch).sum().backward()
        optimizer.step()
    assert len(graphs) == 1


def test_a_network_that_never_ran_compiles_in_one_graph() -> None:
    batch = torch.randn(4, 3, 6, 6)
    prepared = prepare(Network(), "w4a4", (batch,)).train()
    torch.compile(prepared, backend="eager", fullgraph=True)(batch).sum().backward()
    assert not counters["graph_break"]


def test_evaluation_of_a_prepared_network_is_left_uncompiled(graphs: list[dict[str, Any]]) -> None:
    """Its constants are checked as they are made: compiled, every layer would be several graphs."""
    batch = torch.randn(4, 3, 6, 6)
    prepared = prepared_network(batch)
    network = compile_network(prepared)
    for _epoch in range(3):
        prepared.train()
        network(batch).sum().backward()
        prepared.eval()
        with torch.no_grad():
            assert torch.equal(network(batch), prepared(batch))
    assert len(graphs) == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", [0.1, 1 / 3, 0.0371])
def test_compiled_codes_are_those_of_a_true_division(device: str, step: float) -> None:
    """Values at and beside rounding points, where an approximate division or a reciprocal gives other codes."""
    quantizer = StepQuantizer(TensorSpec.activation(8, signed=True), step=step).to(device)
    ties = torch.arange(-300, 301) * torch.tensor(0.5) * step
    v = torch.cat([ties, torch.nextafter(ties, torch.tensor(9.0)), torch.nextafter(ties, torch.tensor(-9.0))])
    v = v.repeat(20).to(device)
    compiled = compile_network(quantizer)(v)
    assert torch.equal(compiled, quantizer(v))
    assert torch.equal(compiled, quantizer.codes(v) * quantizer.scale().detach())


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_compiled_gradients_are_those_of_the_eager_step(device: str) -> None:
    batch = torch.randn(4, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    prepared = settled_network(batch, "interval").to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert_equal_gradients(prepared, compile_network(copy.deepcopy(prepared)), batch.to(device))


@pytest.mark.parametrize("quantizer", list(QUANTIZERS))
def test_gradients_of_every_quantizer_survive_tracing(quantizer: str) -> None:
    """Without code generation, for speed: PyTorch 2.11 lost gradients before it came to that."""
    # of most other batches no gradient of EWGS comes through: their values lie outside of its first intervals
    batch = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    prepared = settled_network(batch, quantizer)
    traced = torch.compile(copy.deepcopy(prepared), backend="aot_eager", dynamic=False)
    assert_equal_gradients(prepared, traced, batch)


def settled_network(batch: Tensor, quantizer: str) -> PreparedModel:
    """A prepared network whose quantizers fit what batch norms give in train mode."""
    torch.manual_seed(0)
    network = Network()
    with torch.no_grad():
        for _ in range(50):
            network(batch)
    prepared = prepare(network, "w4a4", (batch,), quantizer=quantizer)
    initialize(prepared, batch)
    return prepared.train()


def assert_equal_gradients(prepared: PreparedModel, compiled: nn.Module, batch: Tensor) -> None:
    gradients = []
    for network in (prepared, compiled):
        (network(batch) ** 2).sum().backward()
        named = {name.removeprefix("_orig_mod."): p.grad for name, p in network.named_parameters()}
        gradients.append({name: gradient for name, gradient in named.items() if gradient is not None})
    eager, others = gradients
    assert eager.keys() == others.keys()
    assert sum(bool(gradient.any()) for gradient in eager.values()) > 0.8 * len(eager)
    for name, gradient in eager.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=[pytest.mark.slow, needs_compiler])])
def test_bfloat16_and_channels_last_leave_quantizers_in_float32(compiled: bool) -> None:
    batch = torch.randn(4, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    prepared = prepared_network(batch).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    network = compile_network(prepared) if compiled else prepared
    with torch.autocast("cpu", torch.bfloat16):
        output = network(batch)
    output.float().square().sum().backward()
    steps = [*prepared.weight_steps(), *prepared.activation_steps()]
    assert all(step.grad is not None and step.grad.dtype == torch.float32 for step in steps)
    assert all(bool(torch.isfinite(p.grad).all()) for p in prepared.parameters() if p.grad is not None)
    node = prepared.layers()[0]
    assert node.quantizer is not None
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        value = prepared.evaluate(node, (batch,), {})
    quantizer = prepared.activation(node.quantizer)
    assert value.dtype == torch.float32
    assert torch.equal(value, quantizer.codes(value) * quantizer.scale().detach())
