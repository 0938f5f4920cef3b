"""``--strict-codes`` of export and verify, from weights to exit codes, and the way out that the warning names."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

NETWORKS = '''
import torch
from torch import nn
from qkd_deploy.data import ImageDataset, Split

class Net(nn.Module):
    """Large and small features, joined, of which the small ones decide."""

    def __init__(self, factor):
        super().__init__()
        self.large, self.small, self.factor = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3), factor
        self.join, self.last = nn.Conv2d(8, 8, 3), nn.Linear(8, 10)

    def forward(self, x):
        y = torch.cat([self.large(x) * self.factor, self.small(x)], 1)
        return self.last(torch.relu(self.join(y)).mean((2, 3)))

class Detector(nn.Module):
    """A map of boxes and scores that one layer makes."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 1)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))

def pictures():
    images = torch.randint(0, 256, (40, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    split = Split(images, images.float().mean((2, 3)))
    return ImageDataset("pictures", split, split, ("none",), metric=score, metric_name="closeness")

def score(outputs, targets):
    return torch.exp(-outputs.abs().mean((1, 2, 3)))

def unequal():
    return Net(1000.0)

def like():
    return Net(1.0)
'''
DETECTOR = (
    "export --calibrate strict_networks:pictures --bits w8a8 --calibrate-images 32 detector.pt "
    "--model strict_networks:Detector"
)
EXPORT = "export --calibrate digits --bits w8a8 --calibrate-images 64 --strict-codes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("strict")
    (made / "strict_networks.py").write_text(NETWORKS, encoding="utf-8")
    sys.path.append(str(made))
    import strict_networks

    torch.manual_seed(0)
    network = strict_networks.unequal()
    with torch.no_grad():
        network.join.weight[:, :4] *= 1e-6
    torch.save(network.state_dict(), made / "float.pt")
    detector = strict_networks.Detector()
    with torch.no_grad():
        detector.head.weight[:2] *= 1000
    torch.save(detector.state_dict(), made / "detector.pt")
    sys.path.remove(str(made))
    return made


def test_export_warns_and_fails_where_that_is_asked(folder: Path, warm_run: Any) -> None:
    command = EXPORT.removesuffix(" --strict-codes") + " float.pt --output loose.onnx --model strict_networks:unequal"
    loose = warm_run(command, folder)
    assert loose.code == 0 and "Warning: cat: on its one grid, 4 of 8 channels (4, 5, 6, 7) keep" in loose.err
    strict = warm_run(f"{EXPORT} float.pt --output unequal.onnx --model strict_networks:unequal --json", folder)
    assert strict.code == 1
    assert "FAILED: wasted codes in cat (--strict-codes); unequal.onnx is written" in strict.err
    assert [found["tensor"] for found in json.loads(strict.out)["wasted_codes"]] == ["cat"]
    assert (folder / "unequal.onnx").is_file()


def test_verify_warns_and_fails_where_that_is_asked(folder: Path, warm_run: Any) -> None:
    warm_run(f"{EXPORT} float.pt --output verified.onnx --model strict_networks:unequal", folder)
    command = "verify verified.onnx --dataset digits --checkpoint verified.quantized.pt --model strict_networks:unequal"
    loose = warm_run(command, folder)
    assert loose.code == 0 and loose.out.splitlines()[-1].startswith("VERIFIED against"), loose.out + loose.err
    assert "Warning: cat: on its one grid, 4 of 8 channels" in loose.out
    strict = warm_run(f"{command} --strict-codes", folder)
    assert strict.code == 1
    assert strict.out.splitlines()[-1].startswith("FAILED verified.onnx: information: cat: on its one grid")


def test_the_codes_of_a_trained_checkpoint_are_judged_on_noise(folder: Path, warm_run: Any) -> None:
    assert warm_run(f"{DETECTOR} --output map.onnx", folder).code == 0
    checkpoint = "map.quantized.pt --output again.onnx --model strict_networks:Detector"
    loose, strict = (warm_run(f"export {checkpoint}{option}", folder) for option in ("", " --strict-codes"))
    warning = "Warning: head: on its one grid, 4 of 6 channels (2, 3, 4, 5) keep"
    assert loose.code == 0 and warning in loose.err
    assert strict.code == 1 and warning in strict.err and "FAILED: wasted codes in head" in strict.err


def test_the_last_layer_in_float_is_a_way_out(folder: Path, warm_run: Any) -> None:
    command = f"{DETECTOR} --output float.onnx --strict-codes"
    told = warm_run(command, folder)
    assert told.code == 1 and "keep it in float (--float 'head')" in told.err
    assert warm_run(f"{command} --float 'head'", folder).code == 0


def test_parts_of_like_sizes_are_a_way_out(folder: Path, warm_run: Any) -> None:
    done = warm_run(f"{EXPORT} float.pt --output like.onnx --model strict_networks:like", folder)
    assert done.code == 0 and "on its one grid" not in done.err, done.err
    assert warm_run("verify like.onnx --dataset digits --strict-codes", folder).code == 0
