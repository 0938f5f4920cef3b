"""The table of targets comes out complete; what the numbers are is for the real run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cifar_resnet_a
import numpy as np
import pytest
import target_networks
import torch
from target_table import BEGIN, END, insert, markdown

from qkd_deploy.errors import UserError


def test_a_cell_is_measured_and_others_are_kept(run: Callable[..., str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(cifar_resnet_a.resnet20().state_dict(), tmp_path / "net.pt")
    rows = np.random.default_rng(0).integers(0, 256, (12, 3073), np.uint8)
    for name in ("data_batch_1.bin", "test_batch.bin"):
        rows.tofile(tmp_path / name)
    (tmp_path / "page.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    (tmp_path / "out.json").write_text(json.dumps({"cells": {"mine unet w4a4": {"refused": "it cannot | do that"}}}))
    files = ("--photographs", ".", "--cifar", ".", "--resnet20", "net.pt", "--lite0", ".")
    chosen = ("--networks", "resnet20", "--bits", "w8a8", "--targets", "ort", "--images", "4", "--rounds", "1")
    run("targets.py", *files, *chosen, "--json", "out.json", "--table", "page.md")
    cells = json.loads((tmp_path / "out.json").read_text())["cells"]
    found = cells["ort resnet20 w8a8"]
    assert cells.keys() == {"mine unet w4a4", "ort resnet20 w8a8"}
    assert (found["images"], found["codes"], found["differing"], found["passed"]) == (4, 40, 0, True)
    assert found["agreement"] == 100 and found["speed"]["ratio"] > 0 and found["size_of_fp32"] < 0.5
    assert sum(kernel["count"] for kernel in found["kernels"] if kernel["integer"]) > 25
    page = (tmp_path / "page.md").read_text()
    assert page.startswith(f"before\n{BEGIN}\n| target |") and page.endswith(f"{END}\nafter\n") and "old" not in page
    assert "| mine | U-Net | W4A4 | refused, reason 1 |" in page and "1. it cannot | do that" in page
    assert "2 cells: 1 pass within their tolerance, 1 are refused, 0 fail." in page


def test_a_failing_cell_says_so() -> None:
    cell = {"tolerance": 1, "worst": 2, "codes": 10, "differing": 3, "agreement": 90.0, "agreement_with_float": 80.0}
    cell |= {"passed": False, "kernels": [{"name": "Conv", "count": 2, "integer": False}], "bytes": 1_000_000}
    cell |= {"size_of_fp32": 0.25, "runtime": "A 1", "speed": {"ratio": 2.0, "fp32_runtime": "B 2"}}
    text = markdown({"mine unet w4a4": cell}, {"unet": "U-Net"}, ["w4a4"])
    row = "| mine | U-Net | W4A4 | 2 (1) **fails** | 3 of 10 | 90.00 % | 80.00 % | 0, 2 (2 Conv) | 1.00 | 0.25x |"
    assert f"{row} 2.00x (fp32 in B 2) |" in text and text.endswith("0 are refused, 1 fail.")


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(UserError, match="has no lines"):
        insert("table", tmp_path / "page.md")


def test_every_network_is_built() -> None:
    for name in ("mobilenetv2", "unet", "vit_tiny"):
        subject = target_networks.SUBJECTS[name]
        assert subject.kind.make().eval() is not None
    maps = target_networks.UNet(4)(torch.zeros(1, 3, 16, 16))
    assert maps.shape == (1, 11, 16, 16)
