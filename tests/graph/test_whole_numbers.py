"""Inputs of whole numbers and booleans: class ids, masks, places and pixels keep their type in the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from deployment import noise
from torch import Tensor, nn
from whole_way import go_all_the_way

from qkd_deploy import UserError, export_onnx, freeze, initialize, prepare, verify_onnx
from qkd_deploy.bench.benchmark import bench
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.gate.onnx_file import read_exported
from qkd_deploy.runtimes.limited_run import limited_run
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.verification.checks.kernels import list_kernels
from qkd_deploy.verification.runtime import optimized_graph

IMAGES = noise(4, 3, 8, 8)


class Given(nn.Module):
    """Images, and something beside them."""

    def __init__(self, use: Callable[..., Any]) -> None:
        super().__init__()
        self.stem, self.head, self.use = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 4, 1), use
        self.words = nn.Embedding(10, 8)

    def forward(self, x: Tensor, given: Tensor) -> Any:
        return self.use(self, torch.relu(self.stem(x)), given)


MASK = noise(4, 1, 4, 4) > 0
CASES: dict[str, tuple[Callable[..., Any], Tensor, str]] = {
    "class ids": (lambda n, y, c: n.head(y + n.words(c)[:, :, None, None]), torch.tensor([1, 9, 0, 4]), "int64"),
    "one of four": (
        lambda n, y, c: n.head(y) + F.one_hot(c, 4).float()[:, :, None, None],
        torch.tensor([1, 3, 0, 2]),
        "int64",
    ),
    "mask": (lambda n, y, m: n.head(y.masked_fill(m, 0.0)), MASK, "bool"),
    "where": (lambda n, y, m: n.head(torch.where(m, y, -y)), MASK, "bool"),
    "product with a mask": (lambda n, y, m: n.head(y * m.float()), MASK, "bool"),
    "places": (lambda n, y, i: n.head(y).flatten(2).gather(2, i), torch.arange(48).view(4, 4, 3) % 16, "int64"),
    "numbers of 32 bits": (
        lambda n, y, k: n.head(y * k.float()),
        torch.tensor([[[[3]]]] * 4, dtype=torch.int32),
        "int32",
    ),
}


def type_of_input(folder: Path, index: int) -> str:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return str(session.get_inputs()[index].type)


@pytest.mark.parametrize("name", CASES)
def test_whole_numbers_beside_images(name: str, tmp_path: Path) -> None:
    use, given, kind = CASES[name]
    go_all_the_way(Given(use), (IMAGES, given), tmp_path)
    assert type_of_input(tmp_path, 1) == f"tensor({kind})"
    arrays = {"x": IMAGES.numpy(), "given": given.numpy().astype("float32")}
    with pytest.raises(UserError, match=f"the network takes {kind}; convert them"):
        verify_onnx(tmp_path / "model.onnx", inputs=arrays)


def float_kernels(folder: Path) -> set[str]:
    """The operators that ONNX Runtime computes in floats."""
    model = read_exported(folder / "model.onnx").model
    optimized = optimized_graph(model, OnnxRuntime())
    return {kernel.op for kernel in list_kernels(model, optimized, read_metadata(model)) if not kernel.integer}


PIXELS = (torch.arange(4 * 3 * 8 * 8).view(4, 3, 8, 8) * 37 % 256).to(torch.uint8)
INTEGER: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "pixels": (lambda n, x: n.net(x.float()), (PIXELS,)),
    "pixels by to": (lambda n, x: n.net(x.to(torch.float32)), (PIXELS,)),
    "pixels between 0 and 1": (lambda n, x: n.net(x.float() / 255), (PIXELS,)),
    "pixels around 0": (lambda n, x: n.net((x.float() - 127.5) / 64), (PIXELS,)),
    "pixels twice": (lambda n, x: n.net(x.float()) + n.net(x.float().flip(3)), (PIXELS,)),
    "a mask": (lambda n, x, m: n.net(x * m.float()), (IMAGES, noise(4, 1, 8, 8) > 0)),
    "a mask in bytes": (lambda n, x, m: n.net(x * m.type(torch.float32)), (IMAGES, (PIXELS[:, :1] > 99).byte())),
    "signed bytes": (lambda n, x: n.net(x.float()), ((PIXELS.int() - 128).to(torch.int8),)),
    "numbers of 64 bits": (lambda n, x: n.net(x.float()), (PIXELS.long(),)),
}


class Casting(nn.Module):
    """Two layers of what ``use`` makes of the inputs."""

    def __init__(self, use: Callable[..., Any]) -> None:
        super().__init__()
        self.net, self.use = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 4, 1)), use

    def forward(self, *inputs: Tensor) -> Any:
        return self.use(self, *inputs)


@pytest.mark.parametrize("name", INTEGER)
def test_whole_numbers_become_floats_without_float_kernels(name: str, tmp_path: Path) -> None:
    use, inputs = INTEGER[name]
    prepared = go_all_the_way(Casting(use), inputs, tmp_path)
    assert not prepared.account.floats
    assert float_kernels(tmp_path) == set()
    assert type_of_input(tmp_path, len(inputs) - 1) == f"tensor({str(inputs[-1].dtype).removeprefix('torch.')})"


def test_codes_of_bytes_are_their_values(tmp_path: Path) -> None:
    use, inputs = INTEGER["pixels"]
    prepared = go_all_the_way(Casting(use), inputs, tmp_path)
    codes = freeze(prepared).codes(*inputs)
    assert (codes["float"] == PIXELS.numpy()).all()
    assert prepared.activation(str(prepared.graph.node("float").quantizer)).fixed


class Pixels(nn.Module):
    """Takes pixels as a camera gives them: uint8, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.relu(self.stem(x.permute(0, 3, 1, 2).float() / 255)))


def test_pixels_stay_pixels(tmp_path: Path) -> None:
    pixels = (torch.arange(4 * 8 * 8 * 3).view(4, 8, 8, 3) * 37 % 256).to(torch.uint8)
    go_all_the_way(Pixels(), (pixels,), tmp_path)
    assert type_of_input(tmp_path, 0) == "tensor(uint8)"


def test_bytes_need_no_option(tmp_path: Path) -> None:
    use, inputs = INTEGER["pixels"]
    prepared = go_all_the_way(Casting(use), inputs, tmp_path)
    with pytest.raises(UserError, match="the network takes uint8 itself, and so does its file; export without --input"):
        export_onnx(prepared, tmp_path / "again.onnx", input="uint8")
    export_onnx(prepared, tmp_path / "again.onnx")
    assert type_of_input(tmp_path, 0) == "tensor(uint8)"


@pytest.mark.parametrize("name", ["class ids", "mask", "places"])
def test_bench_feeds_whole_numbers(name: str, tmp_path: Path) -> None:
    use, given, _ = CASES[name]
    prepared = prepare(Given(use), "w8a8", (IMAGES, given))
    initialize(prepared, IMAGES, given)
    path = tmp_path / "model.onnx"
    export_onnx(prepared.eval(), path)
    assert bench(path, rounds=1, batch=2).models["integer"].latency > 0
    assert (limited_run(path) or 0) >= 0
