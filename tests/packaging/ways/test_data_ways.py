"""Ways out of data that do not fit a file: given as the sentence says, they verify it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exported import PIXELS, Network, exported, verified
from torch import Tensor, nn
from ways import Way, follow

import qkd_deploy as qkd
from qkd_deploy.data import ImageDataset, Split
from qkd_deploy.export.metadata import PREFIX, read_metadata, write_metadata


def data(metric: Any = None) -> ImageDataset:
    split = Split(torch.from_numpy(PIXELS), torch.arange(8) % 4)
    return ImageDataset("own", split, split, tuple("abcd"), metric=metric)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.left(left) + self.right(right)  # type: ignore[no-any-return]


class Ids(nn.Module):
    """Takes whole numbers itself."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(4, 8), nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids).mean(1))  # type: ignore[no-any-return]


FLOATS = (PIXELS.astype(np.float32) - 128) / 128
IDS = np.arange(16, dtype=np.int64).reshape(4, 4) % 4
NETWORKS: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "classes": (Network(), ()),
    "maps": (Network(lambda y: y), ()),
    "rows": (Network(lambda y: y.flatten(2).permute(2, 0, 1)), ()),
    "number": (Network(torch.mean), ()),
    "pair": (Pair(), (torch.from_numpy(FLOATS), torch.from_numpy(FLOATS))),
    "ids": (Ids(), (torch.from_numpy(IDS),)),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, (network, inputs) in NETWORKS.items():
        exported(network, folder / f"{name}.onnx", *inputs)
    model = onnx.load(folder / "classes.onnx")
    model.metadata_props.remove(next(prop for prop in model.metadata_props if prop.key == f"{PREFIX}golden"))
    write_metadata(model, read_metadata(model))
    onnx.save(model, folder / "bare.onnx")
    return folder


def with_nan() -> np.ndarray:
    values = FLOATS.copy()
    values[3] = np.nan
    return values


def score(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.mean((2, 3)).argmax(1) == labels).float()


BY_OUTPUTS = "verify it with inputs=array (--inputs x.npy on the command line)"
EACH = "give one array for each, by its name: inputs={name: array}, or --inputs x.npz on the command line"
PAIR = {"left": FLOATS, "right": FLOATS}
OPTIONS: dict[str, tuple[str, dict[str, Any], str, list[dict[str, Any]]]] = {
    "one array for two inputs": (
        "pair",
        {"inputs": FLOATS},
        f"the inputs left, right, not 1; {EACH}",
        [{"inputs": PAIR}],
    ),
    "arrays of other names": (
        "pair",
        {"inputs": {"left": FLOATS, "rigth": FLOATS}},
        f"the inputs left, right, but the data name left, rigth; {EACH}",
        [{"inputs": PAIR}],
    ),
    "whole numbers of another type": (
        "ids",
        {"inputs": IDS.astype(np.int32)},
        "are int32, but the network takes int64; convert them",
        [{"inputs": IDS.astype(np.int32).astype(np.int64)}],
    ),
    "whole numbers for floats": (
        "classes",
        {"inputs": PIXELS.astype(np.int64)},
        "give uint8 pixels or float32 values",
        [{"inputs": PIXELS}, {"inputs": FLOATS}],
    ),
    "no images": (
        "classes",
        {"data": data(), "limit": 0},
        "give a limit of at least 1",
        [{"data": data(), "limit": 1}],
    ),
    "what is no number": (
        "classes",
        {"inputs": with_nan()},
        "hold NaN or infinite values; remove them",
        [{"inputs": with_nan()[np.isfinite(with_nan()).all((1, 2, 3))]}],
    ),
    "no golden inputs": (
        "bare",
        {},
        "give data or inputs (--dataset or --inputs on the command line)",
        [{"data": data()}, {"inputs": PIXELS}],
    ),
    "maps for classes": (
        "maps",
        {"data": data()},
        f"so it is no classifier; {BY_OUTPUTS}, or with a data set that has a metric, or one of its own task",
        [{"inputs": PIXELS}, {"data": data(metric=score)}],
    ),
    "rows of other things than images": (
        "rows",
        {"data": data()},
        f"the shape [36, 8, 4], which does not hold one row per input; {BY_OUTPUTS}",
        [{"inputs": PIXELS}],
    ),
    "a number for all images": (
        "number",
        {"data": data()},
        f"the shape [], which does not hold one row per input; {BY_OUTPUTS}",
        [{"inputs": PIXELS}],
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_the_data_that_a_sentence_asks_for_fit(case: str, files: Path) -> None:
    name, wrong, said, right = OPTIONS[case]
    file = files / f"{name}.onnx"
    follow(
        Way(lambda _: verified(file, **wrong), said, lambda _: [verified(file, **options) for options in right]),
        files,
    )


def test_outputs_without_rows_of_images_are_compared_with_the_frozen_model(tmp_path: Path) -> None:
    for name in ("rows", "number"):
        network, inputs = NETWORKS[name]
        frozen = qkd.freeze(exported(network, tmp_path / "m.onnx", *inputs))
        report = qkd.verify_onnx(tmp_path / "m.onnx", inputs=PIXELS, frozen=frozen, threads=(1,))
        assert report.passed and report.images == len(PIXELS)
        assert f"on {len(PIXELS)} inputs" in " ".join(level.sentences[0] for level in report.levels if level.sentences)


def test_a_frozen_model_of_another_file_is_exported_again(tmp_path: Path) -> None:
    other = Network(lambda y: y[:, :3].mean((2, 3)))
    exported(Network(), tmp_path / "m.onnx")
    frozen = qkd.freeze(exported(other, tmp_path / "other.onnx"))
    follow(
        Way(
            lambda path: verified(path / "m.onnx", inputs=PIXELS, frozen=frozen),
            "so nothing can be compared; export that model again",
            lambda path: [
                qkd.export_onnx(frozen, path / "m.onnx"),
                verified(path / "m.onnx", inputs=PIXELS, frozen=frozen),
            ],
        ),
        tmp_path,
    )
