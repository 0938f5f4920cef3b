"""``verify`` with labels of another task than the file was made for: one sentence, and the way out works."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from box_files import write_yolo
from PIL import Image
from torch import nn

import qkd_deploy as qkd

EXAMPLES = Path(__file__).parents[2] / "examples"
PIXELS, CLASSES = 64, 2


def exported(network: nn.Module, folder: Path) -> Path:
    torch.manual_seed(0)
    batch = torch.randint(0, 256, (4, 3, PIXELS, PIXELS)).float().sub(128).div(64)
    model = qkd.prepare(network.eval(), "w8a8", (batch,))
    qkd.initialize(model, batch)
    qkd.export_onnx(model.eval(), folder / "m.onnx")
    return folder / "m.onnx"


def masks(folder: Path) -> Path:
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            (folder / kind / split).mkdir(parents=True)
            shape = (PIXELS, PIXELS, 3) if kind == "images" else (PIXELS, PIXELS)
            Image.fromarray(np.zeros(shape, np.uint8)).save(folder / kind / split / "0.png")
    (folder / "classes.txt").write_text("one\ntwo\n")
    return folder


def test_the_task_that_a_file_was_made_for_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    file, name = exported(nn.Conv2d(3, 5 + CLASSES, 16, 16), tmp_path), f"yolo:{write_yolo(tmp_path / 'boxes')}"
    boxes = qkd.load_dataset(name, image_size=PIXELS)
    with pytest.raises(qkd.UserError) as refused:
        qkd.verify_onnx(file, data=boxes)
    said = str(refused.value)
    assert said.startswith(f"the file returns [{len(boxes.test)}, 7, 4, 4] for ")
    assert said.endswith(
        "; or verify it with the task that it was made for, --task NAME or package.module:Class "
        "(task= of load_dataset in Python)"
    )
    own = qkd.load_dataset(name, image_size=PIXELS, task="fastestdet.task:GridDetection")
    assert qkd.verify_onnx(file, data=own).passed


@pytest.mark.parametrize(
    ("network", "kind", "said"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 4, 64, 64), nn.Flatten(), nn.Linear(4, 2)),
            "boxes",
            "detection needs pairs of maps",
        ),
        (nn.Conv2d(3, 3, 16, 16), "masks", "segmentation needs logits of shape [1, 2, height, width]"),
        (nn.Sequential(nn.Conv2d(3, 4, 64, 64), nn.Flatten(), nn.Linear(4, 2)), "masks", "segmentation needs logits"),
    ],
)
def test_labels_of_other_tasks_are_no_traceback(network: nn.Module, kind: str, said: str, tmp_path: Path) -> None:
    file = exported(network, tmp_path)
    name = f"yolo:{write_yolo(tmp_path / 'boxes')}" if kind == "boxes" else f"masks:{masks(tmp_path / 'masks')}"
    with pytest.raises(qkd.UserError) as refused:
        qkd.verify_onnx(file, data=qkd.load_dataset(name, image_size=PIXELS))
    assert said in str(refused.value)
