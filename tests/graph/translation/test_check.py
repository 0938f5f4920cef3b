"""What could not be exported, or would be exported wrongly, is refused when a network is prepared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from placement import IMAGES, Small
from torch import Tensor, nn

from qkd_deploy import UserError, freeze, initialize, prepare
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.export.ops import float_ops
from qkd_deploy.graph.ir import Graph, Node
from qkd_deploy.graph.translation import check
from qkd_deploy.graph.translation.translate import Translation, translate


class LastRow(nn.Module):
    """A module of its own that looks at the number of images."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + x.shape[0] // 64)


REFUSED: dict[str, Callable[[Any, Any], Any]] = {
    "products of all before": lambda n, x: x.cumprod(1),
    "middle of three": lambda n, x: x.median(1, keepdim=True).values + x,
    "most frequent": lambda n, x: torch.mode(x, 1, keepdim=True)[0] + x,
    "nth smallest": lambda n, x: torch.kthvalue(x, 2, dim=1, keepdim=True)[0] + x,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_pytorch_cannot_write_is_refused_at_once(name: str) -> None:
    with pytest.raises(UserError, match=r"(?s)test_check\.py:\d+.*cannot be exported.*end in front of it"):
        prepare(Small(REFUSED[name]), "w8a8", (IMAGES,))


def test_the_way_out_leads_to_a_file() -> None:
    """The network ends in front of the operation, which is computed outside."""

    class Ended(Small):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.norm(self.stem(x)))

    prepared = prepare(Ended(REFUSED["middle of three"]), "w8a8", (IMAGES,))
    initialize(prepared, IMAGES)
    assert build_model(freeze(prepared))[0].graph.output[0].name == "output"


def test_the_exporter_writes_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    written: list[str] = []

    def noted(names: list[str]) -> Callable[[nn.Module, Graph, Node], Translation]:
        def call(network: nn.Module, graph: Graph, node: Node) -> Translation:
            names.append(node.name)
            return translate(network, graph, node)

        return call

    monkeypatch.setattr(check, "translate", noted(tried))
    monkeypatch.setattr(float_ops, "translate", noted(written))
    network = Small(lambda n, x: n.group(n.norms(n.up(x / (x + 1)))), up=nn.ConvTranspose2d(8, 8, 2, 2))
    network.add_module("norms", nn.InstanceNorm2d(8))
    network.add_module("group", nn.GroupNorm(2, 8))
    prepared = prepare(network.eval(), "w4a4", (IMAGES,))
    initialize(prepared, IMAGES)
    build_model(freeze(prepared))
    assert tried == written == ["truediv", "up", "norms"]


WRONG: dict[str, tuple[Callable[[Tensor], np.ndarray], str]] = {
    "values": (lambda y: y.numpy() + 0.1, "other values"),
    "one image": (lambda y: y[:1].numpy(), r"gives float32 \[1, 8, 8, 8\] instead of float32 \[3, 8, 8, 8\]"),
    "another type": (lambda y: y.numpy().astype(np.float64), "gives float64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_translations_that_give_something_else_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed, problem = WRONG[name]

    def run(model: onnx.ModelProto, operands: list[Tensor]) -> list[np.ndarray]:
        return [changed(operands[0].cumsum(1))]

    monkeypatch.setattr(check, "_run", run)
    with pytest.raises(UserError, match=problem):
        prepare(Small(lambda n, x: x.cumsum(1)), "w8a8", (IMAGES,))


def test_positions_may_differ_where_a_float_was_rounded() -> None:
    places = np.arange(1000)
    assert check._is_close(places, np.where(places < 5, 0, places))
    assert not check._is_close(places, np.where(places < 50, 0, places))
    assert check._is_close(places[:0], places[:0])


def test_a_module_that_looks_at_the_number_of_images_is_right_or_refused() -> None:
    """Kept as one step, it is translated for any number."""
    try:
        prepared = prepare(Small(lambda n, x: n.last(x), last=LastRow()), "w8a8", (IMAGES,), leaf_modules=(LastRow,))
    except UserError:
        return
    many = IMAGES.repeat(22, 1, 1, 1)
    initialize(prepared, IMAGES)
    frozen = freeze(prepared)
    model = build_model(frozen)[0]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": many.numpy()})
    np.testing.assert_allclose(got, frozen(many).numpy(), atol=1e-3)


def test_a_type_that_no_runtime_takes_is_refused() -> None:
    class Eighths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).to(torch.float8_e4m3fn).float()

    with pytest.raises(UserError, match="no runtime here takes or gives float8_e4m3fn; replace the operation"):
        prepare(Eighths().eval(), "w8a8", (torch.randn(2, 3, 8, 8),))


def test_what_is_no_tensor_is_not_returned() -> None:
    class Sized(Small):
        def forward(self, x: Tensor) -> Any:
            y = super().forward(x)
            return y, y.shape[0] * 2

    with pytest.raises(UserError, match="no tensor; return tensors"):
        prepare(Sized(lambda n, x: x), "w8a8", (IMAGES,))
