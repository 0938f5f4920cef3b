"""Ways out of ONNX files that a network cannot start from."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from ways import Way, follow, require_all

from qkd_deploy.checkpoints.weights import load_into, read_weights
from qkd_deploy.errors import UserError
from qkd_deploy.training.start.onnx_start import load_onnx_into

TEST = "tests/packaging/ways/test_onnx_weights_ways.py::test_the_way_out_works"
IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """The same weights with or without padding: another network."""

    def __init__(self, *, padding: int = 0, width: int = 6, deep: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, width, 3, padding=padding, bias=bias)
        self.two = nn.Conv2d(width, width, 3) if deep else nn.Identity()
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]


def network(**form: int) -> nn.Module:
    torch.manual_seed(0)
    return Net(**form).eval()  # type: ignore[arg-type]


def exported(path: Path, **form: int) -> Path:
    """A network as PyTorch exports it."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network(**form), (IMAGES[:1],), path, dynamo=False)
    return path


def without_names(path: Path, **form: int) -> Path:
    """A file in which every constant is called otherwise."""
    model = onnx.load(exported(path, **form))
    for tensor in model.graph.initializer:
        for node in model.graph.node:
            node.input[:] = [f"lost_{name}" if name == tensor.name else name for name in node.input]
        tensor.name = f"lost_{tensor.name}"
    onnx.save(model, path)
    return path


def quantized(path: Path) -> Path:
    model = onnx.load(exported(path))
    tensor = model.graph.initializer[0]
    node = next(node for node in model.graph.node if tensor.name in node.input)
    node.input[1] = "w"
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    codes = numpy_helper.from_array(np.ones(tensor.dims, np.int8), tensor.name)
    model.graph.initializer[0].CopyFrom(codes)
    model.graph.initializer.append(scale)
    model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", [tensor.name, "scale"], ["w"]))
    onnx.save(model, path)
    return path


def damaged(path: Path) -> Path:
    model = onnx.load(exported(path))
    model.graph.initializer[0].dims[0] = 99
    onnx.save(model, path)
    return path


def text(path: Path) -> Path:
    path.write_text("not found")
    return path


def start(path: Path, skip: tuple[str, ...] = (), **form: int) -> None:
    """Start from a file; the network then computes what the file's does."""
    target = Net(**form).eval()  # type: ignore[arg-type]
    load_onnx_into(target, path, "net", IMAGES, skip=skip)
    if not skip:
        with torch.no_grad():
            torch.testing.assert_close(target(IMAGES), network(**form)(IMAGES), rtol=1e-3, atol=1e-5)


def from_pytorch(folder: Path, skip: tuple[str, ...] = (), **form: int) -> None:
    """Start from the file of PyTorch that has the same weights."""
    torch.save(network().state_dict(), folder / "net.pt")
    target = Net(**form)  # type: ignore[arg-type]
    load_into(target, read_weights(folder / "net.pt"), "net", folder / "net.pt", skip=skip)
    assert torch.equal(target.one.weight, network().get_parameter("one.weight"))


WAYS: dict[str, Way] = {
    "another network": Way(
        lambda p: start(without_names(p / "a.onnx", width=7)),
        "in the order in which they are used",
        lambda p: start(p / "a.onnx", width=7),
    ),
    "a deeper network": Way(
        lambda p: start(without_names(p / "a.onnx", deep=True)),
        "in the order in which they are used",
        lambda p: start(p / "a.onnx", deep=True),
    ),
    "more weights": Way(
        lambda p: load_onnx_into(nn.Sequential(nn.Conv2d(1, 6, 3)), without_names(p / "a.onnx"), "net", IMAGES),
        "has more weights than",
        lambda p: start(p / "a.onnx"),
    ),
    "rounded weights": Way(
        lambda p: start(quantized(p / "a.onnx")),
        "give one in full precision",
        lambda p: start(exported(p / "b.onnx")),
    ),
    "a damaged constant": Way(
        lambda p: start(damaged(p / "a.onnx")), "export it again", lambda p: start(exported(p / "a.onnx"))
    ),
    "no model": Way(
        lambda p: start(text(p / "a.onnx")),
        "is no ONNX model, or it is damaged",
        lambda p: start(exported(p / "b.onnx")),
    ),
    "a head to skip without names": Way(
        lambda p: start(without_names(p / "a.onnx"), skip=("head",)),
        "so that none can be skipped",
        lambda p: from_pytorch(p, skip=("head",)),
    ),
    "another padding": Way(
        lambda p: start(without_names(p / "a.onnx"), padding=1),
        "by their order {} {}; give PyTorch's file",
        lambda p: from_pytorch(p, padding=1),
    ),
}


def test_all_sentences_are_followed() -> None:
    require_all(WAYS, TEST)


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path, TEST)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*a\.onnx: Is a directory; name another one"):
        start(tmp_path / "a.onnx")
    start(exported(tmp_path / "b.onnx"))
