"""``verify`` of networks that are no classifiers: several inputs and outputs, operations in float, own metrics."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from qkd_deploy import export_onnx, initialize, prepare

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16)).astype(np.uint8)
METRICS = """
import torch
from qkd_deploy.data import ImageDataset, Split

def pictures():
    images = torch.arange(20 * 3 * 16 * 16).reshape(20, 3, 16, 16).mul(37).remainder(256).to(torch.uint8)
    split = Split(images, images.float().mean((2, 3)))
    return ImageDataset('pictures', split, split, ('none',), metric=by_name, metric_name='closeness')

def by_name(outputs, targets):
    assert isinstance(outputs, dict) and outputs['scores'].shape[0] == outputs['boxes'].shape[0] == len(targets)
    return torch.exp(-outputs['boxes'].abs().mean((1, 2, 3)))
"""


class Detector(nn.Module):
    """Two heads on a common stem: class scores, and boxes on a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.scores, self.boxes = nn.Conv2d(8, 5, 1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        return {"scores": self.scores(x).flatten(2), "boxes": self.boxes(x)}


class Autoencoder(nn.Module):
    """Down by strides, up by a transposed convolution, which stays in float between integer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1), nn.ReLU())
        self.up = nn.ConvTranspose2d(4, 8, 4, 4)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.last(torch.relu(self.up(self.down(x)))))


class Pair(nn.Module):
    """Two inputs, two outputs in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        total = self.left(left) + self.right(right)
        return total.relu(), total.mean((2, 3))


def export(model: nn.Module, folder: Path, inputs: int = 1) -> None:
    torch.manual_seed(0)
    batch = tuple((torch.from_numpy(IMAGES).float() - 128) / 64 for _ in range(inputs))
    prepared = prepare(model.eval(), "w4a4", batch, input_quantization=(1 / 64, 128))
    initialize(prepared, *batch)
    export_onnx(prepared, folder / "m.onnx", metadata={"normalization": {"mean": 128, "std": 64}})
    np.save(folder / "x.npy", IMAGES)
    np.savez(folder / "x.npz", left=IMAGES, right=IMAGES[::-1])


def report_of(outcome: Any, code: int = 0) -> dict[str, Any]:
    assert outcome.code == code, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def sentences(report: dict[str, Any], level: str) -> str:
    return " ".join(next(entry["sentences"] for entry in report["levels"] if entry["name"] == level))


def test_a_detector_with_two_outputs_by_name(run: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    export(Detector(), tmp_path)
    report = report_of(run("verify m.onnx --inputs x.npy --require-integer --json -", tmp_path))
    assert report["differing_codes"] == 0 < report["compared_codes"] and report["float_ops"] == []
    assert [output.name for output in onnx.load(tmp_path / "m.onnx").graph.output] == ["scores", "boxes"]


def test_an_autoencoder_with_an_operation_in_float(run: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    export(Autoencoder(), tmp_path)
    report = report_of(run("verify m.onnx --inputs x.npy --json -", tmp_path))
    assert report["differing_codes"] == 0 < report["compared_codes"]
    assert "ConvTranspose" in {kernel["op"] for kernel in report["float_ops"]}
    assert "behind float operators are compared within one step" in sentences(report, "codes")


def test_two_inputs_by_name(warm_run: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    export(Pair(), tmp_path, inputs=2)
    report_of(warm_run("verify m.onnx --inputs x.npz --require-integer --json -", tmp_path))
    refused = warm_run("verify m.onnx --inputs x.npy", tmp_path)
    assert refused.code == 2 and "the inputs left, right, not 1; give one array for each" in refused.err


def test_the_output_that_differs_is_named(warm_run: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    export(Detector(), tmp_path)
    model = onnx.load(tmp_path / "m.onnx")
    last = next(node for node in model.graph.node if "boxes" in node.output)
    last.output[0] = "boxes.before"
    shift = numpy_helper.from_array(np.float32(0.25), "shift")
    model.graph.initializer.append(shift)
    model.graph.node.append(helper.make_node("Add", ["boxes.before", "shift"], ["boxes"], name="changed"))
    onnx.save(model, tmp_path / "m.onnx")
    report = report_of(warm_run("verify m.onnx --inputs x.npy --json -", tmp_path), code=1)
    golden = " ".join(found["message"] for found in report["identity"])
    assert "boxes" in golden and "output scores" not in golden


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sets.py with a data set and its metric, nets.py with a detector, and its weights."""
    folder = tmp_path_factory.mktemp("measured")
    torch.manual_seed(0)
    model = Detector()
    torch.save(model.state_dict(), folder / "float.pt")
    (folder / "sets.py").write_text(METRICS)
    source = "import torch\nfrom torch import Tensor, nn\n\n\n" + inspect.getsource(Detector)
    (folder / "nets.py").write_text(source + "\n\ndef detector():\n    return Detector()\n")
    return folder


def test_a_metric_of_ones_own_from_calibration_to_the_verified_file(measured: Path, warm_run: Any) -> None:
    """The checkpoint brings the frozen model in, whose two outputs are compared with the runtime's."""
    done = warm_run("export --calibrate sets:pictures --bits w4a4 --model nets:detector float.pt --json", measured)
    table = report_of(done)["calibration"]
    assert table["measure"] == "closeness" and 0 < table["accuracy"] < 100
    checkpoint = "--checkpoint float.quantized.pt --model nets:detector"
    report = report_of(warm_run(f"verify float.onnx --dataset sets:pictures {checkpoint} --json -", measured))
    assert report["metric"] == "closeness" and report["images"] == 20
    assert report["accuracy"]["runtime"] == report["accuracy"]["frozen"] == pytest.approx(table["accuracy"])
    np.save(measured / "x.npy", IMAGES)
    report = report_of(warm_run(f"verify float.onnx --inputs x.npy {checkpoint} --json -", measured))
    assert "on 6 inputs: scores, boxes equal" in sentences(report, "accuracy")
