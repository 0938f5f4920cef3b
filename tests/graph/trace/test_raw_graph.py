"""Nodes carry every fact that tracing has found out, and outputs keep their nesting and classes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from deployment import noise
from placement import Small, check
from torch import Tensor, fx, nn

from qkd_deploy.graph.ir import Graph, Node, Ref, references
from qkd_deploy.graph.trace.trace import trace

IMAGES = noise(3, 3, 8, 8)


@dataclass
class Output(OrderedDict):  # type: ignore[type-arg]
    """Like the outputs of transformers: a dictionary with attributes."""

    logits: Any = None
    features: Any = None

    def __post_init__(self) -> None:
        self.update({key: value for key, value in vars(self).items() if value is not None})


class WithOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, pixel_values: Tensor, return_dict: bool = True) -> Any:
        x = F.relu(self.conv(pixel_values))
        logits = self.head(x.mean((2, 3)))
        return Output(logits, x) if return_dict else (logits,)


def test_output_classes_are_kept() -> None:
    deployed = check(WithOutput())
    result = deployed.frozen(IMAGES)
    assert torch.equal(result.logits, result["logits"])
    assert [value.name for value in deployed.model.graph.output] == ["logits", "features"]


def middle_of(step: Any, **modules: nn.Module) -> Graph:
    return trace(Small(step, **modules).eval(), (IMAGES,)).graph


def only(graph: Graph, kind: str, target: Any) -> Node:
    [node] = [node for node in graph.nodes if node.kind == kind and node.target == target]
    return node


def test_nodes_know_shape_type_and_line() -> None:
    graph = middle_of(lambda n, x: x.flatten(1).unflatten(1, (8, 8, 8)) * (x > 0.5))
    node = only(graph, "call_method", "flatten")
    assert (node.shape, node.batch_dims, node.open_shape) == ((3, 512), (0,), (-1, 512))
    assert node.dtype == torch.float32
    assert node.line.startswith(f"{__file__}:")
    assert node.args == (Ref("relu"), 1)
    assert node.method and node.label == "flatten"
    compared = next(node for node in graph.nodes if node.dtype == torch.bool)
    assert compared.shape == (3, 8, 8, 8)


def test_inputs_know_their_smallest_element() -> None:
    graph = middle_of(lambda n, x: x)
    [node] = [node for node in graph.nodes if node.kind == "input"]
    assert (node.label, node.smallest) == ("x", float(IMAGES.min()))
    assert all(node.smallest is None for node in graph.nodes if node.kind != "input")


class Counting(nn.Module):
    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return x * ids


def test_inputs_of_integers_have_no_smallest_element() -> None:
    graph = trace(Counting(), (IMAGES, torch.ones(3, 1, 1, 1, dtype=torch.int64))).graph
    assert [node.smallest for node in graph.nodes if node.kind == "input"] == [float(IMAGES.min()), None]


def test_constants_know_their_path_and_shape() -> None:
    graph = middle_of(lambda n, x: x * n.norm.weight.view(1, -1, 1, 1))
    node = only(graph, "constant", "norm.weight")
    assert (node.shape, node.batch_dims, node.args) == ((8,), (), ())


def test_calls_that_return_their_operand_are_marked() -> None:
    graph = middle_of(lambda n, x: x.clone().to(torch.float32).add_(1).to(torch.float64).to(torch.float32))
    marked = {node.name: node.unchanged for node in graph.nodes if node.method and node.name != "mean"}
    assert marked == {"clone": True, "to": True, "add_": False, "to_1": False, "to_2": False}


def test_numbers_that_follow_the_batch_are_nodes_with_a_value() -> None:
    graph = middle_of(lambda n, x: x.reshape(x.shape[0] * 2, -1).view(x.shape[0], 8, 8, 8))
    values = {node.name: node.value for node in graph.nodes if node.kind == "scalar"}
    assert [value for value in values.values() if isinstance(value, int)] == [3, 6, 3]
    assert all(node.shape is None for node in graph.nodes if node.kind == "scalar")
    reshaped = only(graph, "call_method", "reshape")
    assert values[reshaped.args[1].name] == 6


@fx.wrap
def always_eight(batch: int) -> int:
    return 8


def test_numbers_that_do_not_follow_the_batch_are_literals() -> None:
    graph = middle_of(lambda n, x: F.avg_pool2d(x, always_eight(x.shape[0])) + torch.ones(x.shape[1], 1, 1))
    assert "always_eight" not in [node.name for node in graph.nodes]
    pool = only(graph, "call_function", F.avg_pool2d)
    assert pool.args[1] == 8
    assert [ref.name for ref in references(pool.args)] == ["relu"]


def test_labels_are_module_paths_and_functions() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            x += 1
            return torch.sigmoid(x)

    labels = [node.label for node in middle_of(lambda n, x: n.inner(x), inner=Inner()).nodes]
    assert labels[:7] == ["x", "stem", "norm", "relu", "inner.clone", "inner.add", "inner.sigmoid"]
