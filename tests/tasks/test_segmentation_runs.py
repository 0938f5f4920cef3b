"""Networks for segmentation train, export and verify from a folder of masks, and their figures are the runtime's."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import pytest
from command_ways import command
from mask_files import write_camvid
from torch import Tensor, nn

SMALL = "--batch-size 4 --threads 1 --pretrain-epochs 1 --teacher-pretrain-epochs 1 --teacher-feature-epochs 1"
SEGMENTER = "segmenter --{0}-arg backbone=resnet8 --{0}-arg width=8 --{0}-arg depthwise=false"


class TwoHeads(nn.Module):
    """Returns what torchvision's networks do: the logits, and those of an auxiliary classifier, by name."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.auxiliary, self.classifier = nn.Conv2d(8, num_classes, 1), nn.Conv2d(8, num_classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute logits at a quarter of the size, and auxiliary ones at half of it."""
        fine = self.first(x)
        return OrderedDict(out=self.classifier(self.second(fine)), aux=self.auxiliary(fine))


OWN = f"{__name__}:TwoHeads"
CASES = {
    "qfd": (SEGMENTER.format("model"), SEGMENTER.format("teacher"), {"ce", "feature"}),
    "kd": (OWN, OWN, {"ce", "auxiliary", "kl"}),
}


@pytest.mark.parametrize("method", CASES)
def test_masks_are_learned_exported_and_verified(method: str, tmp_path: Path) -> None:
    write_camvid(tmp_path / "street", size=(32, 24))
    student, teacher, losses = CASES[method]
    names = "--dataset masks:street --dataset-arg scale=0.5"
    command_line = f"train {names} {SMALL} --model {student} --teacher {teacher} --method {method} --epochs 2 --out run"
    own = f"--model {student}" if student == OWN else ""
    for line in (
        command_line,
        f"export {own} run/model.pt",
        f"verify run/model.onnx {own} {names} --checkpoint run/model.pt --require-integer --json report.json",
    ):
        answer = command(line, tmp_path)
        assert answer.code == 0, answer.err
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert set(last["losses"]["student"]) == losses
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["proven"] == "VERIFIED" and report["differing_codes"] == 0 and report["metric"] == "mIoU"
    figures = report["figures"]
    assert figures["frozen"] == figures["runtime"] and set(figures["runtime"]) == {"mIoU", "pixel accuracy"}
    assert last["accuracy"] == report["accuracy"]["runtime"] == figures["runtime"]["mIoU"]
