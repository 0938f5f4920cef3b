"""Starts from ONNX files: by name, by order, with batch norms that the exporter folded, and what is refused."""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from qkd_deploy import UserError, create_model
from qkd_deploy.data import ImageDataset, Split, normalize
from qkd_deploy.pixels.normalization import Normalization
from qkd_deploy.training.networks import start_network
from qkd_deploy.training.start.onnx_start import load_onnx_into

IMAGES = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    """Every module that ONNX files write in a way of their own: Gemm, MatMul with a sum, PRelu, LayerNormalization."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.ConvTranspose2d(6, 4, 2))
        self.tokens, self.norm, self.head = nn.Linear(4, 7), nn.LayerNorm(7), nn.Linear(7, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).mean((2, 3))[:, None]
        return self.head(self.norm(self.tokens(x))[:, 0])  # type: ignore[no-any-return]


def resnet() -> nn.Module:
    """A ResNet-8 whose batch norms have seen something."""
    network = create_model("resnet8", 5, 3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
    network.train()
    with torch.no_grad():
        network(IMAGES * 2 + 0.5)
    return network.eval()


def exported(network: nn.Module, path: Path, *, training: bool = False, dynamo: bool = False) -> Path:
    """The network as PyTorch exports it; ``training`` keeps batch norms, layouts and with them all names."""
    options: dict[str, Any] = {"external_data": False, "verbose": False} if dynamo else {}
    if training:
        options |= {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (IMAGES[:1],), path, dynamo=dynamo, **options)
    return path


@torch.no_grad()
def same(one: nn.Module, two: nn.Module) -> bool:
    return torch.allclose(one.eval()(IMAGES), two.eval()(IMAGES), atol=1e-4)


def refusal(network: nn.Module, path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_onnx_into(network, path, "mynet", IMAGES, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("make", [Plain, resnet])
def test_names_are_matched_where_the_file_kept_them(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    source, target = make().eval(), make().eval()
    path = exported(source, tmp_path / "net.onnx", training=True)
    count = sum("num_batches" not in name for name in source.state_dict())
    account = load_onnx_into(target, path, "mynet", IMAGES)
    assert account == f"{count} tensors from {path}, computes what the file computes"
    assert same(source, target)


@pytest.mark.parametrize("dynamo", [False, True])
def test_lost_names_are_replaced_by_the_order(dynamo: bool, tmp_path: Path) -> None:
    source, target = Plain().eval(), Plain().eval()
    account = load_onnx_into(target, exported(source, tmp_path / "net.onnx", dynamo=dynamo), "mynet", IMAGES)
    assert account.endswith(", by order, computes what the file computes")
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


@pytest.mark.parametrize("dynamo", [False, True])
def test_folded_batch_norms_get_statistics_again(dynamo: bool, tmp_path: Path) -> None:
    source, target = resnet(), create_model("resnet8", 5, 3).eval()
    account = load_onnx_into(target, exported(source, tmp_path / "net.onnx", dynamo=dynamo), "mynet", IMAGES)
    assert account.endswith("by order, 9 batch norms with the statistics of 16 images, computes what the file computes")
    assert same(source, target)
    evaluated = target(IMAGES)
    assert torch.allclose(target.train()(IMAGES), evaluated, atol=1e-3)  # batch statistics are the running ones


def test_statistics_come_from_pixels_as_the_network_takes_them(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (20, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(pixels, torch.arange(20) % 5)
    imagenet = Normalization.parse("imagenet")
    dataset = ImageDataset("noise", split, split, tuple("abcde")).normalized(imagenet)
    network = start_network("resnet8", exported(resnet(), tmp_path / "net.onnx"), dataset)
    with torch.no_grad():
        before = network.get_submodule("conv1")(normalize(pixels, imagenet))
    torch.testing.assert_close(network.get_buffer("bn1.running_mean"), before.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)


def test_files_in_archives_are_read(tmp_path: Path) -> None:
    source, target = Plain().eval(), Plain().eval()
    exported(source, tmp_path / "net.onnx")
    with zipfile.ZipFile(tmp_path / "net.whl", "w") as wheel:
        wheel.write(tmp_path / "net.onnx", "pkg/net.onnx")
    load_onnx_into(target, tmp_path / "net.whl", "mynet", IMAGES)
    assert same(source, target)


def test_a_head_can_be_skipped_by_name_only(tmp_path: Path) -> None:
    path = exported(Plain(), tmp_path / "named.onnx", training=True)
    target = Plain(classes=3)
    assert "2 left at random (head.weight, head.bias)" in load_onnx_into(target, path, "mynet", IMAGES, skip=("head",))
    assert "head.weight [5, 7] instead of [3, 7]" in refusal(Plain(classes=3), path)
    path = exported(Plain(), tmp_path / "lost.onnx")
    assert "has lost the names of its weights, so that none can be skipped" in refusal(target, path, skip=("head",))


class Padded(nn.Module):
    """The same weights with or without padding: another network."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=padding), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


def test_a_network_that_computes_something_else_is_named_or_refused(tmp_path: Path) -> None:
    path = exported(Padded(0), tmp_path / "named.onnx")
    account = load_onnx_into(Padded(1).eval(), path, "mynet", IMAGES)
    assert "computes something else than the file (by " in account and "paddings, strides or functions" in account
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        for node in model.graph.node:
            node.input[:] = [f"lost_{name}" if name == tensor.name else name for name in node.input]
        tensor.name = f"lost_{tensor.name}"
    onnx.save(model, tmp_path / "lost.onnx")
    load_onnx_into(Padded(0).eval(), tmp_path / "lost.onnx", "mynet", IMAGES)
    message = refusal(Padded(1).eval(), tmp_path / "lost.onnx")
    assert "by their order mynet computes something else than the file" in message
    assert message.endswith("give PyTorch's file")


def test_other_networks_are_refused_with_the_first_difference(tmp_path: Path) -> None:
    path = exported(resnet(), tmp_path / "net.onnx")
    message = refusal(create_model("resnet20", 5, 3), path)
    assert "Conv (weight [32, 16, 3, 3], bias [32]) is no layer1.1.conv1 (weight [16, 16, 3, 3])" in message
    assert "has more weights than mynet" in refusal(nn.Sequential(nn.Conv2d(3, 16, 3, bias=False)), path)
    deeper = nn.Sequential(Padded(0), nn.Unflatten(1, (5, 1, 1)), nn.Conv2d(5, 2, 1), nn.Flatten())
    shallow = exported(Padded(0), tmp_path / "shallow.onnx")
    assert "the end of the file is no 2 (weight [2, 5, 1, 1], bias [2])" in refusal(deeper, shallow)


def test_other_files_are_refused(tmp_path: Path) -> None:
    assert "none.onnx does not exist" in refusal(Plain(), tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not found")
    assert "is no ONNX model, or it is damaged" in refusal(Plain(), tmp_path / "text.onnx")
    weight = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.int8), "conv1.weight")
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    nodes = [
        helper.make_node("DequantizeLinear", ["conv1.weight", "scale"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "quantized", values[:1], values[1:], [weight, scale])
    onnx.save(helper.make_model(graph), tmp_path / "quantized.onnx")
    assert "holds the rounded weights of a quantized network" in refusal(Plain(), tmp_path / "quantized.onnx")
