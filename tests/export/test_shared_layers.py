"""Layers that are used several times are stored once, and everything that reads a file still holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from deployment import assert_same_codes, feeds_of, finish, float_operations, noise
from mutations import any_constant, copy_of, set_constant
from onnxruntime import InferenceSession
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from qkd_deploy import initialize, prepare
from qkd_deploy.export.float_model import build_float_model
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.verification.checks.identity import against_digests, against_expected
from qkd_deploy.workflows.inspect import inspect_onnx

IMAGES = noise(2, 3, 16, 16)
LARGE = 4000
"""Bytes of the weights of one of these layers at 4 bits, packed."""


class Recursive(nn.Module):
    """One layer three times, each time on another scale."""

    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 32, 3, padding=1), nn.Linear(32, 5)
        self.layer = layer or nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for _ in range(3):
            x = F.relu(self.use(x)) + x
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]

    def use(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


class Levels(nn.Module):
    """A head on two levels of a pyramid, with batch norms of their own behind the shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, 2, 1)
        self.head, self.last = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.Conv2d(32, 9, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(32), nn.BatchNorm2d(32)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        one = F.relu(self.one(x))
        levels = one, F.relu(self.two(one))
        return tuple(self.last(F.relu(norm(self.head(level)))) for norm, level in zip(self.norms, levels, strict=True))


class Functional(Recursive):
    """A parameter as the weight of three calls of a function."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.kernel = nn.Parameter(noise(32, 32, 3, 3) * 0.1)

    def use(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, None, padding=1)


class Transposed(nn.Module):
    """Weights of an encoder that the decoder reads the other way round, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(768, 32)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = F.linear(F.relu(self.encode(x.flatten(1))), self.encode.weight.t())
        return x


def tied() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), *(nn.Conv2d(32, 32, 3, padding=1) for _ in range(2)))
    network[3].weight = network[2].weight
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "a layer called three times": Recursive,
    "a head on two levels": Levels,
    "a function of one parameter": Functional,
    "weights that are computed": lambda: Recursive(parametrizations.weight_norm(nn.Conv2d(32, 32, 3, padding=1))),
    "the weight of another layer, transposed": Transposed,
    "two modules with one parameter": tied,
}


def prepared_of(network: nn.Module, bits: str = "w8a8") -> PreparedModel:
    torch.manual_seed(0)
    prepared = prepare(network.eval(), bits, (IMAGES,), first_last_bits=8)
    initialize(prepared, IMAGES)
    return prepared.eval()


def stored(model: onnx.ModelProto) -> list[int]:
    """How often each large constant is stored."""
    return [*Counter(t.raw_data for t in model.graph.initializer if len(t.raw_data) > LARGE).values()]


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
@pytest.mark.parametrize("case", NETWORKS)
def test_weights_are_stored_once_of(case: str, bits: str) -> None:
    prepared = prepared_of(NETWORKS[case](), bits)
    deployed = finish(prepared, weights="packed" if bits == "w4a4" else "int8")
    assert stored(deployed.model) and set(stored(deployed.model)) == {1}
    assert not assert_same_codes(deployed, (IMAGES,))
    assert not float_operations(deployed.model)


def test_the_file_is_smaller_than_one_copy_for_each_use() -> None:
    network = Recursive()
    size = len(finish(prepared_of(network)).model.SerializeToString())
    assert size < sum(parameter.numel() for parameter in network.parameters()) + 30_000


def test_uses_keep_scales_of_their_own() -> None:
    deployed = finish(prepared_of(Levels()))
    scales = [tensor.name for tensor in deployed.model.graph.initializer if tensor.name.endswith("head.weight_scale")]
    layers = [node for node in deployed.frozen.graph.nodes if node.target == "head"]
    one, two = (deployed.frozen.layer(node).scale for node in layers)
    assert len(layers) == 2 and scales
    feeds = [node for node in deployed.model.graph.node if node.op_type == "DequantizeLinear" and "head" in node.name]
    by_scale = {node.input[1] for node in feeds if node.input[0] == "head.weight"}
    assert len(by_scale) == (1 if torch.equal(one, two) else 2)


def test_all_uses_are_inspected_and_a_changed_code_is_found(tmp_path: Path) -> None:
    prepared = prepared_of(Recursive(), "w4a4")
    for weights in ("int8", "packed"):
        model, built = build_model(prepared, weights=weights)
        metadata = read_metadata(model)
        path = tmp_path / f"{weights}.onnx"
        path.write_bytes(model.SerializeToString())
        layers = inspect_onnx(path, build=False).layers
        assert [layer.name for layer in layers] == [record.name for record in built.layers]
        uses = [layer for layer in layers if layer.module == "layer"]
        assert len(uses) == 3 and len({layer.codes_used for layer in uses}) == 1
        assert uses[0].bytes > 1000 > uses[1].bytes
        assert not against_expected(model, build_model(prepared, weights=weights)[0], metadata)
        changed = copy_of(model)
        name = any_constant(changed, np.random.default_rng(0), ".weight" if weights == "int8" else ".weight_packed")
        set_constant(changed, name, lambda array: np.roll(array, 1))
        assert name in {difference.name for difference in against_digests(changed, metadata)}


def test_the_network_in_float_holds_them_once_too() -> None:
    prepared = prepared_of(Recursive())
    model = build_float_model(prepared)
    assert set(stored(model)) == {1}
    (got,) = InferenceSession(model.SerializeToString()).run(None, feeds_of(model, (IMAGES,)))
    with torch.no_grad():
        expected = prepared.network(IMAGES).numpy()
    np.testing.assert_allclose(got, expected, atol=0.05 * np.abs(expected).max())
