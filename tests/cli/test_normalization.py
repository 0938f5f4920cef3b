"""The normalisation of pixels, from the command line to files of both kinds, and what is said where nobody names it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from image_files import write_tree
from onnxruntime import InferenceSession
from PIL import Image
from torch import nn

from qkd_deploy.checkpoints.checkpoint import load_checkpoint

TRAIN = "train --model plaincnn --method qat --epochs 1 --pretrain-epochs 1 --device cpu --out run"
ZOO = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

def plain(num_classes, in_channels):
    return Net(num_classes, in_channels)

def said(num_classes, in_channels):
    net = Net(num_classes, in_channels)
    net.pretrained_cfg = {"mean": (0.3,) * 3, "std": (0.25,) * 3, "interpolation": "bicubic", "crop_pct": 0.8}
    return net
"""
WARNING = "zoo:plain: nothing says how the pixels of its weights were normalised, so it gets (pixel - 128) / 64"


def ok(outcome: Any) -> str:
    assert outcome.code == 0, outcome.err
    assert "Traceback" not in outcome.err
    return str(outcome.out)


def stored(path: Path) -> dict[str, Any]:
    entries = {p.key.removeprefix("qkd_deploy."): p.value for p in onnx.load(path).metadata_props}
    return {key: json.loads(entries[key]) for key in ("normalization", "preprocessing") if key in entries}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with networks, weights of one of them, and photographs in three classes."""
    (tmp_path / "zoo.py").write_text(ZOO)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "zoo", raising=False)
    import zoo  # type: ignore[import-not-found]

    torch.manual_seed(0)
    network: nn.Module = zoo.plain(3, 3)
    with torch.no_grad():
        network.train()(torch.randn(64, 3, 16, 16))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    write_tree(tmp_path / "photos", 20, size=(24, 20))
    return tmp_path


def test_trained_exported_and_verified(run: Any, warm_run: Any, tmp_path: Path) -> None:
    ok(run(f"{TRAIN} --normalization 0.3/0.25", tmp_path))
    assert 'normalization = "0.3/0.25"' in (tmp_path / "run" / "config.toml").read_text()
    entry = {"mean": 0.3, "std": 0.25, "divisor": 255.0}
    assert load_checkpoint(tmp_path / "run" / "model.pt").dataset.normalization == entry
    for form in ("float32", "uint8"):
        ok(warm_run(f"export run/model.pt --input {form} --output {form}.onnx", tmp_path))
        line = f"verify {form}.onnx --dataset digits --limit 60 --checkpoint run/model.pt"
        told = ok(warm_run(line + (" --require-integer" if form == "uint8" else ""), tmp_path))
        assert "VERIFIED" in told and "0 of " in told
        assert ("it makes pixels of the normalised input" in told.replace("\n", " ")) == (form == "float32")
        assert stored(tmp_path / f"{form}.onnx") == {"normalization": entry}
    described = json.loads(ok(warm_run("inspect float32.onnx --json", tmp_path)))
    assert described["origin"]["normalization"] == entry
    for file, form in (("float32.onnx", "pixels"), ("uint8.onnx", "raw pixels of a network that takes them")):
        assert f"input: {form} normalised by 0.3/0.25\n" in ok(warm_run(f"inspect {file}", tmp_path))
    ok(warm_run("bench uint8.onnx --against float32.onnx --rounds 1", tmp_path))


def test_float_predictions_are_those_of_plain_pytorch(photos: Path, warm_run: Any) -> None:
    """The classes of the images are what plain PyTorch predicts, so that each other prediction would cost accuracy."""
    network, images = sorted_by_plain_pytorch(photos)
    line = "export two.pt --calibrate imagefolder:sorted --bits w8a8 --model zoo:plain --normalization imagenet"
    table = json.loads(ok(warm_run(f"{line} --json --output m.onnx", photos)))["calibration"]
    assert (table["float_accuracy"], table["images"]) == (100.0, 40)
    found = InferenceSession(photos / "m.onnx").run(None, {"x": images.numpy()})[0]
    with torch.no_grad():
        logits = network(images).numpy()
    np.testing.assert_allclose(found, logits, atol=0.03 * float(np.abs(logits).max()))


def sorted_by_plain_pytorch(folder: Path) -> tuple[nn.Module, torch.Tensor]:
    """Write images in two folders by what a network makes of them; returns the network and the normalised images."""
    import zoo

    torch.manual_seed(1)
    network, generator = zoo.plain(2, 3), np.random.default_rng(2)
    colours, grain = generator.integers(20, 236, (200, 3, 1, 1)), generator.integers(-20, 20, (200, 3, 16, 16))
    pixels = torch.from_numpy((colours + grain).astype(np.uint8))
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images = (pixels.float() / 255 - mean) / std
    with torch.no_grad():
        network.train()(images)
        lead = network.eval()(images)[:, 1] - network(images)[:, 0]
        network.head.bias[0] += lead.median()  # half of the images each
        predicted = network(images).argmax(1)
    for number, (image, label) in enumerate(zip(pixels, predicted.tolist(), strict=True)):
        place = folder / "sorted" / str(label) / f"{number:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy().transpose(1, 2, 0)).save(place)
    torch.save(network.state_dict(), folder / "two.pt")
    return network, images


def test_a_network_says_what_it_expects_and_verify_follows(photos: Path, warm_run: Any) -> None:
    line = "export weights.pt --calibrate imagefolder:photos --image-size 16 --bits w4a4"
    done = warm_run(f"{line} --model zoo:said --input uint8 --output m.onnx", photos)
    ok(done)
    assert "nothing says" not in done.err
    assert stored(photos / "m.onnx") == {
        "normalization": {"mean": [0.3] * 3, "std": [0.25] * 3, "divisor": 255.0},
        "preprocessing": {"interpolation": "bicubic", "crop_pct": 0.8},
    }
    verify = "verify m.onnx --dataset imagefolder:photos --image-size 16 --checkpoint m.quantized.pt --model zoo:said"
    assert "VERIFIED" in ok(warm_run(verify, photos))
    report = json.loads(ok(warm_run(f"{verify} --json -", photos)))
    recorded = load_checkpoint(photos / "m.quantized.pt")
    assert report["dataset"]["fingerprint"] == recorded.dataset.fingerprint  # the same pixels, by the same crop
    other = json.loads(ok(warm_run(f"{verify} --crop-pct 0 --json -", photos)))
    assert other["dataset"]["fingerprint"] != recorded.dataset.fingerprint


def test_what_the_user_names_wins(photos: Path, warm_run: Any) -> None:
    line = "export weights.pt --calibrate imagefolder:photos --image-size 16 --bits w4a4 --model zoo:said"
    ok(warm_run(f"{line} --normalization half --interpolation bilinear --crop-pct 0 --output m.onnx", photos))
    assert stored(photos / "m.onnx") == {"normalization": {"mean": 0.5, "std": 0.5, "divisor": 255.0}}


def test_weights_of_which_nothing_is_known_are_warned_about(photos: Path, warm_run: Any) -> None:
    line = "export weights.pt --calibrate imagefolder:photos --image-size 16 --bits w4a4 --model zoo:plain"
    for options, warned in (("", True), ("--normalization centered", False), ("--normalization imagenet", False)):
        done = warm_run(f"{line} {options} --output m.onnx", photos)
        ok(done)
        assert (WARNING in done.err) == warned
    train = "train --dataset imagefolder:photos --image-size 16 --model zoo:plain --init weights.pt --method qat"
    done = warm_run(f"{train} --epochs 1 --batch-size 16 --device cpu --out run", photos)
    ok(done)
    assert done.err.count(WARNING) == 1


def test_a_checkpoint_knows_what_it_was_trained_on(photos: Path, warm_run: Any) -> None:
    """It wins over what its factory says, and a teacher made for other pixels has its images converted."""
    common = "--dataset imagefolder:photos --image-size 16 --batch-size 16 --device cpu --epochs 1 --pretrain-epochs 1"
    ok(warm_run(f"train {common} --model plaincnn --method qat --normalization half --out first", photos))
    start = "first/checkpoints/student-float.pt"
    again = f"train {common} --method kd --model zoo:said --init weights.pt --teacher plaincnn:{start} --out second"
    done = warm_run(again, photos)
    ok(done)
    assert "plaincnn was made for pixels normalised by half; its images are converted" in done.err
    records = {name: load_checkpoint(photos / "second" / f"{name}.pt").dataset for name in ("teacher", "model")}
    assert records["teacher"].normalization == {"mean": 0.5, "std": 0.5, "divisor": 255.0}
    assert records["model"].normalization["mean"] == [0.3] * 3
    ok(warm_run(f"export {start} --calibrate imagefolder:photos --image-size 16 --bits w8a8 --output m.onnx", photos))
    assert stored(photos / "m.onnx")["normalization"] == {"mean": 0.5, "std": 0.5, "divisor": 255.0}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--normalization imgnet", "did you mean 'imagenet'?"),
        ("--normalization 0.5", "MEANS/DEVIATIONS"),
        ("--normalization 0.5/0", "deviations above 0"),
        ("--normalization imagenet", "imagenet is for 3 channels, but the images have 1"),
        ("--interpolation cubic", "did you mean 'bicubic'?"),
        ("--crop-pct 1.5", "at most 1"),
        ("--crop-pct -0.1", "at least 0"),
    ],
)
def test_mistakes_are_one_line(warm_run: Any, tmp_path: Path, options: str, says: str) -> None:
    done = warm_run(f"{TRAIN} {options}", tmp_path)
    assert done.code == 2
    assert says in done.err and len(done.err.strip().splitlines()) <= 3
    assert not (tmp_path / "run").exists()
