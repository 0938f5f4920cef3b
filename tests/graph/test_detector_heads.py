"""Heads that return more in eval mode than in train mode, and cache anchors by the shape of the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.errors import UserError
from qkd_deploy.graph.prepared import PreparedModel

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Head(nn.Module):
    """Maps of box distributions and scores in train mode; in eval mode decoded boxes and the maps, too."""

    shape: Any = None
    anchors = strides = torch.empty(0)

    def __init__(self, channels: tuple[int, ...], classes: int = 3, bins: int = 4) -> None:
        super().__init__()
        self.bins = bins
        self.boxes = nn.ModuleList(nn.Conv2d(c, 4 * bins, 3, padding=1) for c in channels)
        self.scores = nn.ModuleList(nn.Conv2d(c, classes, 1) for c in channels)

    def forward(self, features: list[Tensor]) -> Any:
        batch = features[0].shape[0]
        maps = {
            name: torch.cat(
                [layer(x).view(batch, -1, x.shape[2] * x.shape[3]) for layer, x in zip(layers, features, strict=True)],
                2,
            )
            for name, layers in (("boxes", self.boxes), ("scores", self.scores))
        }
        return maps if self.training else (self.decoded(maps, features), maps)

    def decoded(self, maps: dict[str, Tensor], features: list[Tensor]) -> Tensor:
        shape = features[0].shape
        if self.shape != shape:
            self.anchors, self.strides = self.places(features)
            self.shape = shape
        batch, _, places = maps["boxes"].shape
        bins = torch.arange(self.bins, dtype=torch.float32).view(1, 1, self.bins, 1)
        distances = (maps["boxes"].view(batch, 4, self.bins, places).softmax(2) * bins).sum(2)
        low, high = self.anchors - distances[:, :2], self.anchors + distances[:, 2:]
        return torch.cat([(low + high) / 2 * self.strides, (high - low) * self.strides, maps["scores"].sigmoid()], 1)

    def places(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        points, strides = [], []
        for x, stride in zip(features, (2.0, 4.0), strict=True):
            height, width = x.shape[2:]
            rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
            points.append(torch.stack([columns, rows]).view(2, -1))
            strides.append(torch.full((1, height * width), stride))
        return torch.cat(points, 1)[None], torch.cat(strides, 1)


class Detector(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.head = head

    def forward(self, x: Tensor) -> Any:
        fine = torch.relu(self.stem(x))
        return self.head([fine, torch.relu(self.down(fine))])


def detector() -> nn.Module:
    torch.manual_seed(0)
    return Detector(Head((8, 12)))


def ready(network: nn.Module, bits: str = "w8a8") -> PreparedModel:
    model = qkd.prepare(network, bits, (IMAGES,))
    qkd.initialize(model, IMAGES)
    return model


def test_every_convolution_of_the_head_is_an_integer_kernel(tmp_path: Path) -> None:
    model = ready(detector().eval()).eval()
    assert {str(node.target) for node in model.layers()} == {
        "stem", "down", "head.boxes.0", "head.boxes.1", "head.scores.0", "head.scores.1"
    }  # fmt: skip
    frozen, path = qkd.freeze(model), tmp_path / "m.onnx"
    qkd.export_onnx(model, path, tail="inside")
    for images in (1, 2, 7):
        pixels = torch.rand(images, 3, 32, 32, generator=torch.Generator().manual_seed(images)).numpy()
        report = qkd.verify_onnx(path, inputs=pixels, frozen=frozen, prepared=model, require_integer=True)
        assert report.passed and report.tail and not report.float_ops, report.verdict


def test_boxes_are_those_of_the_float_network() -> None:
    network = detector().eval()
    with torch.no_grad():
        (expected, _), (found, _) = network(IMAGES), ready(network).eval()(IMAGES)
    assert float((found - expected).abs().max()) < 0.4 and float((found - expected)[:, 4:].abs().max()) < 0.02


def test_train_mode_returns_what_the_network_returns_in_train_mode() -> None:
    network = detector()
    model = ready(network).train()
    maps = model(IMAGES)
    assert isinstance(maps, dict) and list(maps) == list(network.train()(IMAGES)) == ["boxes", "scores"]
    sum(value.square().mean() for value in maps.values()).backward()
    assert all(parameter.grad is not None for parameter in model.network.parameters())
    decoded, others = model.eval()(IMAGES)
    assert decoded.shape == (2, 7, 320) and list(others) == ["boxes", "scores"]


@pytest.mark.parametrize("sizes", [(32,), (32, 64), (64,)])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_what_the_network_has_seen_before_does_not_matter(sizes: tuple[int, ...], batch: int) -> None:
    fresh, used = detector().eval(), detector().eval()
    with torch.no_grad():
        for size in sizes:
            used(torch.rand(batch, 3, size, size))
        one, two = ready(fresh).eval()(IMAGES), ready(used).eval()(IMAGES)
    assert torch.equal(one[0], two[0])


def test_other_sizes_of_images_are_decoded_at_their_own_places() -> None:
    network = detector().eval()
    other = torch.rand(3, 3, 32, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, found = network(other)[0], ready(network).eval()(other)[0]
    assert found.shape == expected.shape and float((found - expected).abs().max()) < 0.4


class Ends(nn.Module):
    """A head whose modes differ as ``end`` says."""

    def __init__(self, end: Callable[[Ends, Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.end = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1), end

    def forward(self, features: list[Tensor]) -> Any:
        return self.end(self, self.a(features[0]), self.b(features[0]))


def one_of_two(n: nn.Module, a: Tensor, b: Tensor) -> Any:
    return a if n.training else (b.sigmoid(), a)


def other_order(n: nn.Module, a: Tensor, b: Tensor) -> Any:
    return [b, {"a": a}] if n.training else [a, b, torch.cat([a, b], 1)]


def detached(n: nn.Module, a: Tensor, b: Tensor) -> Any:
    return {"a": a, "b": b.detach()} if n.training else (a.amax(1), {"a": a, "b": b})


@pytest.mark.parametrize("end", [one_of_two, other_order, detached])
def test_heads_that_return_less_in_train_mode(end: Callable[..., Any], tmp_path: Path) -> None:
    network = Detector(Ends(end))
    model = ready(network)
    assert {"head.a", "head.b"} <= {str(node.target) for node in model.layers()}
    with torch.no_grad():
        for mode in (True, False):
            expected, found = (torch.utils._pytree.tree_flatten(net.train(mode)(IMAGES)) for net in (network, model))
            assert expected[1] == found[1]
            assert all(float((a - b).abs().max()) < 0.1 for a, b in zip(expected[0], found[0], strict=True))
    qkd.export_onnx(model.eval(), tmp_path / "m.onnx")
    assert qkd.verify_onnx(tmp_path / "m.onnx", require_integer=True).passed


def probabilities(n: nn.Module, a: Tensor, b: Tensor) -> Any:
    return a if n.training else a.softmax(1)


def test_what_only_train_mode_returns_keeps_the_module_whole() -> None:
    """Logits for the loss, probabilities for users: the logits are none of eval mode's results."""
    model = ready(Detector(Ends(probabilities)))
    assert "head.a" not in {str(node.target) for node in model.layers()}
    with torch.no_grad():
        assert float(model.eval()(IMAGES).sum(1).mean()) == pytest.approx(1, abs=1e-5)
        assert float(model.train()(IMAGES).sum(1).mean()) != pytest.approx(1, abs=0.1)


class ByShape(nn.Module):
    """Answers one shape of a batch otherwise than all others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * 2 if x.shape == IMAGES.shape else y


def test_a_shape_that_changes_the_answer_is_refused() -> None:
    with pytest.raises(UserError, match="turns the batch size"):
        qkd.prepare(ByShape().eval(), "w8a8", (IMAGES,))
