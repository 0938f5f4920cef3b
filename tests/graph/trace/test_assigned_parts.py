"""Assignments to parts of tensors are steps of their own, as long as nobody reads the tensor under another name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deployment import noise
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.errors import UserError

IMAGES = noise(2, 3, 8, 8)


class Net(nn.Module):
    """Two convolutions, of which a step makes the answer."""

    def __init__(self, step: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.last, self.step = nn.Conv2d(3, 9, 3, padding=1), nn.Conv2d(9, 9, 3, padding=1), step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self, x)


def keypoints(n: Any, x: Tensor) -> Tensor:
    """As a head for poses decodes them: every third channel otherwise."""
    y = n.conv(x).flatten(2).clone()
    y[:, 2::3] = y[:, 2::3].sigmoid()
    y[:, 0::3] = (y[:, 0::3] * 2.0 + 3.0) * 8.0
    y[:, 1::3] = (y[:, 1::3] * 2.0 + 5.0) * 8.0
    return y


def border(n: Any, x: Tensor) -> Tensor:
    y = n.conv(x)
    y[..., 0] = 0
    y[..., -1] = 0
    return n.last(y)


def mask(n: Any, x: Tensor) -> Tensor:
    y = n.conv(x)
    y[y < 0] = 0.0
    return y


def in_place(n: Any, x: Tensor) -> Tensor:
    y = n.conv(x)
    y[:, :2] += 1
    y[:, 3:] *= 0.5
    return y


def filled(n: Any, x: Tensor) -> Tensor:
    features = n.conv(x)
    y = torch.zeros_like(features)
    y[:, :4], y[:, 4:] = features[:, 5:], features[:, :5]
    return n.last(y)


CODE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "keypoints": keypoints,
    "a border": border,
    "a mask": mask,
    "in place": in_place,
    "a new tensor": filled,
}


@pytest.mark.parametrize("case", CODE)
def test_parts_are_assigned_as_python_does(case: str, tmp_path: Path) -> None:
    network = Net(CODE[case]).eval()
    model = qkd.prepare(network, "w8a8", (IMAGES,))
    qkd.initialize(model, IMAGES)
    with torch.no_grad():
        expected, found = network(IMAGES), model.eval()(IMAGES)
    assert float((found - expected).abs().max()) < 0.06 * float(expected.abs().max())
    frozen = qkd.freeze(model)
    qkd.export_onnx(model, tmp_path / "m.onnx")
    for images in (1, 2, 5):
        report = qkd.verify_onnx(tmp_path / "m.onnx", inputs=noise(images, 3, 8, 8).numpy(), frozen=frozen)
        assert report.passed and report.compared_codes, report.verdict


def test_gradients_pass_through() -> None:
    model = qkd.prepare(Net(keypoints), "w8a8", (IMAGES,))
    qkd.initialize(model, IMAGES)
    model.train()(IMAGES)[:, 2::3].sum().backward()
    gradient = model.get_parameter("network.conv.weight").grad
    assert gradient is not None and bool(gradient[2::3].abs().sum() > 0) and not bool(gradient[0::3].any())


def another_name(n: Any, x: Tensor) -> Tensor:
    y = n.conv(x)
    first = y[:, :2]
    y[:, 0] = 0
    return y + first.mean()


def given(n: Any, x: Tensor) -> Tensor:
    """Changes what another variable holds, too."""
    y = x.view(x.shape[0], -1)
    y[:, 0] = 7
    return n.conv(x)


@pytest.mark.parametrize("step", [another_name, given])
def test_tensors_that_are_read_under_another_name_are_refused(step: Callable[[Any, Tensor], Tensor]) -> None:
    said = r"read under another name, too \(.*test_assigned_parts.py:\d+\); build the tensor from parts"
    with pytest.raises(UserError, match=said):
        qkd.prepare(Net(step).eval(), "w8a8", (IMAGES,))
    apart = Net(lambda n, x: n.conv(torch.cat([x[:, :1] * 0, x[:, 1:]], 1))).eval()
    assert qkd.prepare(apart, "w8a8", (IMAGES,)).layers()
