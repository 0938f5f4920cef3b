r"""Post-training quantization of FastestDet (examples/fastestdet): mean average precision, and agreement with float.

    python benchmarks/grid_detector.py fastestdet-coco.pth yolo:coco256 --forms w8a8 w4a8 w4a8+reconstruct \
        --json fastestdet.json

All files are exported, verified against their checkpoint, and measured in ONNX Runtime on the held-out images.
"Agreement" is the share of confident detections, of the network in float and of the file together, that have a partner
on the other side: of the same class, with an overlap of more than a half.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from provenance import provenance
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from fastestdet import weights
from fastestdet.network import FastestDet
from fastestdet.task import Precision, detections

from qkd_deploy.data import ImageDataset, batches, load_dataset
from qkd_deploy.pixels.normalization import Normalization
from qkd_deploy.tasks.detection.overlap import iou
from qkd_deploy.verification.runtime import RuntimeModel
from qkd_deploy.workflows.export import verify_deployed
from qkd_deploy.workflows.post_training import export_calibrated

CONFIDENT, OVERLAP = 0.25, 0.5
SIZE, BATCH = 352, 16
NETWORK, TASK = "fastestdet.network:FastestDet", "fastestdet.task:GridDetection"


def partners(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Compute the agreement of detections [D, 6] of the same images, in percent."""
    paired = total = 0
    for first, second in zip(ours, theirs, strict=True):
        first, second = (rows[rows[:, 5] >= CONFIDENT] for rows in (first, second))
        overlap = iou(first[:, None, 1:5], second[None, :, 1:5]) * (first[:, None, 0] == second[None, :, 0])
        total += len(first) + len(second)
        while overlap.numel() and overlap.max() > OVERLAP:  # the best pair first
            row, column = divmod(int(overlap.argmax()), overlap.shape[1])
            overlap[row], overlap[:, column] = 0, 0
            paired += 2
    return 100.0 * paired / max(total, 1)


def judged(answers: Sequence[Tensor], data: ImageDataset, float_answers: Sequence[Tensor]) -> dict[str, float]:
    """Figures of a network's answers to the held-out images, batch by batch."""
    score = Precision()
    for maps, (_, targets) in zip(answers, batches(data.test, BATCH), strict=True):
        score.add(maps, targets)
    found, wanted = ([rows for maps in side for rows in detections(maps)] for side in (answers, float_answers))
    return {**score.figures(), "agreement": partners(found, wanted)}


def in_runtime(file: Path, data: ImageDataset) -> list[Tensor]:
    """Answers of an exported file."""
    model = onnx.load(file)
    session, name = RuntimeModel(model), model.graph.input[0].name
    runs = (session.run({name: images.numpy()}) for images, _ in batches(data.test, BATCH))
    return [torch.from_numpy(next(iter(outputs.values()))) for outputs in runs]


def exported(form: str, options: argparse.Namespace, folder: Path, data: ImageDataset) -> tuple[Path, dict[str, Any]]:
    """Quantize, export and verify one form, such as "w4a8+reconstruct"."""
    bits, _, more = form.partition("+")
    settings = {"dataset": options.data, "fit": "stretch", "image_size": SIZE, "images": options.images, "bits": bits}
    settings |= {"model": NETWORK, "task": TASK, **({more: True} if more else {})}
    file = folder / f"{form}.onnx"
    made = export_calibrated(folder / "rgb.pt", file, settings=settings)
    report = verify_deployed(file, checkpoint=made.checkpoint, model=NETWORK, data=data, tolerance=options.tolerance)
    codes = {"compared_codes": report.compared_codes, "differing_codes": report.differing_codes}
    sides = {"frozen": report.figures.get("frozen"), "preview": report.figures.get("preview")}
    return file, {"verified": report.passed, **codes, **sides, "bytes": file.stat().st_size}


def main() -> None:
    """Measure, print a table and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="published ones, which take BGR")
    parser.add_argument("data", help="such as yolo:PATH")
    parser.add_argument("--forms", nargs="*", default=["w8a8"])
    parser.add_argument("--images", type=int, default=128, help="for calibration")
    parser.add_argument("--tolerance", type=float, default=5.0, help="points between the float preview and the codes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = load_dataset(options.data, image_size=SIZE, fit="stretch", task=TASK)
    data = data.normalized(Normalization((0.0,), (1.0,)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights.main(str(options.weights), str(folder / "rgb.pt"))
        network = FastestDet(len(data.classes))
        network.load_state_dict(torch.load(folder / "rgb.pt", weights_only=True))
        with torch.no_grad():
            wanted = [network.eval()(images) for images, _ in batches(data.test, BATCH)]
        rows: dict[str, dict[str, Any]] = {"float": judged(wanted, data, wanted)}
        print("| form | mAP50 | mAP50-95 | agreement |\n|---|---|---|---|")
        for form in ("float", *options.forms):
            if form not in rows:
                file, verified = exported(form, options, folder, data)
                rows[form] = {**judged(in_runtime(file, data), data, wanted), **verified}
            row = rows[form]
            print(f"| {form} | {row['mAP50']:.2f} | {row['mAP50-95']:.2f} | {row['agreement']:.2f} |", flush=True)
    if options.json is not None:
        record = {"images": len(data.test), "calibration_images": options.images, "results": rows}
        record |= {"data": data.known_as, "fingerprint": data.fingerprint, "provenance": provenance()}
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
