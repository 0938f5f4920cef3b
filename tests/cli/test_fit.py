"""Letterboxed images from export to VERIFIED: the file says that they are whole, and verify makes the same pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from image_files import write

from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.models import create_model


def test_a_file_of_letterboxed_images_is_verified_on_such(tmp_path: Path, warm_run: Any) -> None:
    for split in ("train", "val"):
        for kind in "ab":
            for index in range(6):
                write(tmp_path / "photos" / split / kind / f"{index}.png", 10 * ord(kind) + index, (24 + index, 12))
    torch.manual_seed(0)
    torch.save(create_model("plaincnn", 2, 3).state_dict(), tmp_path / "float.pt")
    line = "export float.pt --model plaincnn --calibrate imagefolder:photos --image-size 16 --fit letterbox --bits w8a8"
    done = warm_run(f"{line} --output m.onnx", tmp_path)
    assert done.code == 0, done.err
    assert read_metadata(onnx.load(tmp_path / "m.onnx")).preprocessing == {"fit": "letterbox"}
    line = "verify m.onnx --dataset imagefolder:photos --image-size 16 --checkpoint m.quantized.pt"
    done = warm_run(line, tmp_path)
    assert done.code == 0 and "VERIFIED against m.quantized.pt" in done.out, done.out + done.err
    assert "no accuracy is claimed" not in done.out
    crooked = warm_run(f"{line} --fit squeeze", tmp_path)
    assert crooked.code == 2 and "letterbox" in crooked.err, crooked.err


def test_wrong_labels_end_a_command_with_one_line(tmp_path: Path, warm_run: Any) -> None:
    (tmp_path / "x.json").write_text("{")
    done = warm_run("train --dataset coco:x.json --image-size 64 --epochs 1", tmp_path)
    assert done.code == 2 and "x.json is no JSON" in done.err and "Traceback" not in done.err
