"""Ways out, each followed to the end: the sentence is provoked, what it recommends is done, and it works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from ways import Way, follow, require_all

import qkd_deploy as qkd
from qkd_deploy.bits import BitWidths
from qkd_deploy.data.sets.arrays import read_arrays
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.verification.source import _part_of as part_of

TEST = "tests/packaging/test_followed_ways_out.py::test_the_way_out_works"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 4)
    ).eval()


def images(count: int = 8) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def fresh(bits: str = "w8a8", **settings: Any) -> PreparedModel:
    return qkd.prepare(network(), bits, images(), **settings)


def ready(bits: str = "w8a8", **settings: Any) -> PreparedModel:
    model = fresh(bits, **settings)
    qkd.initialize(model, images())
    return model


def written(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


IMAGES = np.zeros((10, 8, 8), np.uint8)
LABELS = np.arange(10) % 2

WAYS: dict[str, Way] = {
    "nothing to calibrate with": Way(
        lambda p: qkd.calibrate(fresh(), []),
        "nothing to calibrate with; give at least one batch",
        lambda p: qkd.calibrate(fresh(), [images()]),
    ),
    "no samples": Way(
        lambda p: qkd.initialize(fresh(), images(0)),
        "give at least one, batch first",
        lambda p: qkd.initialize(fresh(), images(1)),
    ),
    "a batch in a dictionary": Way(
        lambda p: qkd.calibrate(fresh(), [{"x": images()}]),
        "a batch is {}; give {}",
        lambda p: qkd.calibrate(fresh(), [(images(), torch.zeros(8))]),
        advice="give a tensor for each input",
    ),
    "raw pixels": Way(
        lambda p: qkd.initialize(fresh(), images().byte()),
        "give floats, normalised",
        lambda p: qkd.initialize(fresh(), images()),
    ),
    "data of no kind": Way(
        lambda p: qkd.calibrate(fresh(), 5),  # type: ignore[arg-type]
        "give a batch, a list or loader of batches",
        lambda p: [qkd.calibrate(fresh(), data) for data in (images(), [images()])],
    ),
    "no images of a data set": Way(
        lambda p: qkd.calibrate(fresh(), qkd.load_dataset("digits"), images=0),
        "calibration on {} images is impossible; give 1 or more",
        lambda p: qkd.calibrate(fresh(), qkd.load_dataset("digits"), images=1),
    ),
    "batch norms of an iterato": Way(
        lambda p: qkd.calibrate(fresh(), iter([images()]), batch_norm=True),
        "give a list or a loade",
        lambda p: qkd.calibrate(fresh(), [images()], batch_norm=True),
    ),
    "batch norms of one image": Way(
        lambda p: qkd.calibrate(fresh(), [images()], batch_norm=True, images=1),
        "give some hundred",
        lambda p: qkd.calibrate(fresh(), [images(200)], batch_norm=True, images=200),
    ),
    "nothing to reconstruct with": Way(
        lambda p: qkd.reconstruct(ready(), network(), []),
        "nothing to reconstruct with; give at least one batch",
        lambda p: qkd.reconstruct(ready(), network(), [images()]),
    ),
    "reconstruction on no images": Way(
        lambda p: qkd.reconstruct(ready(), network(), images(), images=0),
        "give 2 or more",
        lambda p: qkd.reconstruct(ready(), network(), images(), images=2),
    ),
    "reconstruction on one sample": Way(
        lambda p: qkd.reconstruct(ready(), network(), images(1)),
        "give two or more",
        lambda p: qkd.reconstruct(ready(), network(), images(2)),
    ),
    "another network to reconstruct": Way(
        lambda p: qkd.reconstruct(ready(), nn.Linear(2, 2), images()),
        "give the one that prepare() took",
        lambda p: qkd.reconstruct(ready(), network(), images()),
    ),
    "a quantizer with codes of its own": Way(
        lambda p: qkd.reconstruct(ready(quantizer="dorefa"), network(), images()),
        "reconstruct with interval or lsq",
        lambda p: [qkd.reconstruct(ready(quantizer=kind), network(), images()) for kind in ("interval", "lsq")],
    ),
    "bits of another form": Way(
        lambda p: BitWidths.parse("4/4"),
        "are not of the form wXaY",
        lambda p: BitWidths.parse("w4a4"),
        advice="did you mean 'w4a4'",
    ),
    "bits out of range": Way(
        lambda p: BitWidths.parse("w9a1"),
        "are out of range",
        lambda p: BitWidths.parse("w8a2"),
        advice="did you mean 'w8a2'",
    ),
    "float activations for some layers": Way(
        lambda p: fresh(overrides={"5": "w8a32"}), "give all bits a32 or none", lambda p: fresh(overrides={"5": "w8a4"})
    ),
    "a pattern without a laye": Way(
        lambda p: fresh(overrides={"03": "w4a4"}),
        "matches no laye",
        lambda p: fresh(overrides={"3": "w4a4"}),
        advice="did you mean '3'",
    ),
    "a pattern without a module": Way(
        lambda p: fresh(overrides={"55": "float"}),
        "matches no module",
        lambda p: fresh(overrides={"5": "float"}),
        advice="did you mean '5'",
    ),
    "bits inside a module in float": Way(
        lambda p: qkd.prepare(nn.Sequential(network()), "w8a8", images(), overrides={"0.5": "w4a4", "0.[45]": "float"}),
        "leave one of both out",
        lambda p: qkd.prepare(nn.Sequential(network()), "w8a8", images(), overrides={"0.[45]": "float"}),
    ),
    "two ways to say what pixels are": Way(
        lambda p: fresh(normalization="half", input_quantization=(0.1, 3)),
        "leave one out",
        lambda p: [fresh(normalization="half"), fresh(input_quantization=(0.1, 3))],
    ),
    "an unknown form of weights": Way(
        lambda p: qkd.export_onnx(ready().eval(), p / "m.onnx", weights="int4"),
        "choose one of",
        lambda p: [qkd.export_onnx(ready().eval(), p / "m.onnx", weights=form) for form in ("int8", "packed")],
        advice="choose one of int8, packed",
    ),
    "a folder to write to": Way(
        lambda p: qkd.export_onnx(ready().eval(), p), "name a file", lambda p: qkd.export_onnx(ready().eval(), p / "m")
    ),
    "labels that are no numbers": Way(
        lambda p: qkd.load_dataset(str(written(p / "a.npz", images=IMAGES, labels=LABELS * 0.5))),
        "write whole numbers",
        lambda p: qkd.load_dataset(str(written(p / "a.npz", images=IMAGES, labels=LABELS))),
    ),
    "pixels of another type": Way(
        lambda p: qkd.load_dataset(str(written(p / "a.npz", images=IMAGES / 255, labels=LABELS))),
        "write the raw pixels as uint8",
        lambda p: qkd.load_dataset(str(written(p / "a.npz", images=IMAGES, labels=LABELS))),
    ),
    "images of another shape": Way(
        lambda p: qkd.load_dataset(str(written(p / "a.npz", images=IMAGES[0], labels=LABELS))),
        "write [N, H, W, C]",
        lambda p: qkd.load_dataset(str(written(p / "a.npz", images=IMAGES[..., None], labels=LABELS))),
    ),
    "classes that nobody tells": Way(
        lambda p: qkd.load_dataset(str(written(p / "a.npz", images=IMAGES))),
        "give it as --classes",
        lambda p: qkd.load_dataset(str(written(p / "a.npz", images=IMAGES)), classes=2),
    ),
    "arrays of other names": Way(
        lambda p: qkd.load_dataset(str(written(p / "a.npz", x=IMAGES))),
        "{} holds {}; write",
        lambda p: qkd.load_dataset(
            str(written(p / "a.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS))
        ),
        advice="write x_train, y_train, x_test and y_test, or images and labels",
    ),
    "arrays that are not there": Way(
        lambda p: read_arrays(p / "x.npy"),
        "write one with numpy.save",
        lambda p: [np.save(p / "x.npy", IMAGES), read_arrays(p / "x.npy")],
    ),
    "pickled objects": Way(
        lambda p: [np.save(p / "x.npy", np.array([object()])), read_arrays(p / "x.npy")],
        "write it with numpy.save and allow_pickle=False",
        lambda p: [np.save(p / "x.npy", IMAGES, allow_pickle=False), read_arrays(p / "x.npy")],
    ),
    "no classes for a network": Way(
        lambda p: qkd.create_model("resnet8", 0),
        "a model with {} {} is impossible",
        lambda p: qkd.create_model("resnet8", 1),
    ),
    "an unknown split": Way(
        lambda p: [qkd.export_onnx(ready().eval(), p / "m"), qkd.verify_onnx(p / "m", data=digits(), split="val")],
        "choose train or test",
        lambda p: [_part_of(digits(), split) for split in ("train", "test")],
    ),
}


def digits() -> Any:
    return qkd.load_dataset("digits")


def _part_of(data: Any, split: str) -> object:

    return part_of(data, split, 1)


@pytest.mark.filterwarnings("ignore::qkd_deploy.errors.QuantizationWarning")
@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path, TEST)


def test_all_sentences_are_followed() -> None:
    require_all(WAYS, TEST)
