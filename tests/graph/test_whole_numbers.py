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

from qkd_deploy import UserError, verify_onnx

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
