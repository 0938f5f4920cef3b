"""A trained network beside the tools that people know: deployed accuracy, integer kernels, file size and speed.

    python benchmarks/peers.py cifar10-resnet20.pt cifar-10-batches-bin --folder peers --json docs/results/peers.json \
        --file "Ours, W2A2, 10 epochs=runs/ID/model.onnx" --file "Brevitas, W2A2, 10 epochs=brevitas-w2a2.onnx"

Makes the post-training files (ours, ``quantize_static``, NNCF where it is installed), takes trained files as they are,
and measures each on the test images. Each row is saved when it is done; a further call goes on from there. Speed is
over the float file in ONNX Runtime, all in one process and one thread, batch 1, in turns, by the clock of the process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import torch
from contestants import export_float
from openvino_speed import compiled, session
from peer_kernels import openvino_kernels, ort_kernels
from pretrained_networks import NETWORKS, Images, Pretrained
from provenance import provenance
from static_forms import preprocessed, quantize_per_channel
from torch import nn

from qkd_deploy import calibrate, export_onnx, prepare
from qkd_deploy.atomic import atomic_write
from qkd_deploy.bench.timing import interleaved

_BATCH = 50
_FLOAT = "Float"
Maker = Callable[[Path], None]


class Start:
    """The float network that everybody starts from, and its images as the network takes them."""

    def __init__(self, weights: Path, data: Path) -> None:
        self.spec: Pretrained = NETWORKS["resnet20"]
        self.network: nn.Module = self.spec.network(weights)
        self.images: Images = self.spec.images(data, self.spec.size)
        self.calibration = self.spec.normalize(self.images.calibration)


def post_training(start: Start, folder: Path) -> dict[str, tuple[str, Maker]]:
    """What makes each post-training row: the name of its file, and how that is written."""
    makers: dict[str, tuple[str, Maker]] = {_FLOAT: ("float.onnx", partial(_float, start))}
    for bits in ("w8a8", "w4a4"):
        makers[f"Ours, {bits.upper()}, post-training"] = (f"ours-{bits}.onnx", partial(_ours, start, bits, "int8"))
    makers["Ours, W4A4, post-training, packed"] = ("ours-packed.onnx", partial(_ours, start, "w4a4", "packed"))
    for name, reduce_range in (("", False), (", reduce_range", True)):
        maker = partial(_static, start, folder, reduce_range)
        makers[f"quantize_static, W8A8{name}"] = (f"static{'-reduced' * reduce_range}.onnx", maker)
    if _version("nncf") is not None:
        makers["NNCF in OpenVINO, W8A8"] = ("nncf.xml", partial(_nncf, start, folder))
    return makers


def _float(start: Start, path: Path) -> None:
    export_float(start.network, start.calibration[:8], path)


def _ours(start: Start, bits: str, weights: str, path: Path) -> None:
    example = torch.full((1, 3, start.spec.size, start.spec.size), -1.0)  # negative: normalised pixels are signed
    prepared = prepare(start.network, bits, (example,), normalization=start.spec.normalization)
    calibrate(prepared, list(start.calibration.split(_BATCH)))
    export_onnx(prepared.eval(), path, weights=weights)


def _static(start: Start, folder: Path, reduce_range: bool, path: Path) -> None:
    images = start.calibration.numpy()
    prepared = preprocessed(folder / "float.onnx", folder)
    quantize_per_channel(prepared, path, images, reduce_range=reduce_range, extra_options={"CalibStridedMinMax": 10})


def _nncf(start: Start, folder: Path, path: Path) -> None:
    import nncf  # an optional dependency

    images = [image[None] for image in start.calibration.numpy()]
    model = openvino.Core().read_model(folder / "float.onnx")
    quantized = nncf.quantize(model, nncf.Dataset(images), subset_size=len(images))
    openvino.save_model(quantized, path, compress_to_fp16=False)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def runner(path: Path) -> Callable[[np.ndarray], Any]:
    """A deployed file as a function of images, in the runtime that it is for; its first output."""
    if path.suffix == ".xml":
        run = compiled(openvino.Core().read_model(path))
        return lambda images: next(iter(run(images).values()))
    loaded = session(str(path))
    return lambda images: loaded(images)[0]


def measure(start: Start, path: Path) -> dict[str, Any]:
    """Accuracy on all test images, kernels and bytes of a deployed file."""
    run, pixels = runner(path), start.images.held_out
    batches = (start.spec.normalize(pixels[first : first + _BATCH]) for first in range(0, len(pixels), _BATCH))
    answers = np.concatenate([run(batch.numpy()).argmax(1) for batch in batches])
    right = float((torch.from_numpy(answers) == start.images.labels).float().mean())
    weights = path.with_suffix(".bin")  # OpenVINO's format is two files
    size = path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" else 0)
    kernels = openvino_kernels(path) if path.suffix == ".xml" else ort_kernels(onnx.load(path))
    return {"file": path.name, "accuracy": 100 * right, "bytes": size, "kernels": kernels}


def speeds(paths: dict[str, Path], start: Start, rounds: int) -> dict[str, dict[str, float]]:
    """Median and quartiles of the speed of each file over the float file, in turns."""
    image = start.calibration[:1].numpy()
    runs = {name: partial(runner(path), image) for name, path in paths.items()}
    samples = interleaved(runs, rounds, clock=time.process_time)
    found = {}
    for name, values in samples.items():
        quartiles = np.quantile(samples[_FLOAT] / values, [0.5, 0.25, 0.75])
        found[name] = dict(zip(("median", "quartile_1", "quartile_3"), map(float, quartiles), strict=True))
    return found


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| | accuracy | kernels in integers | in float | kB | speed over float (quartiles) |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        kernels, speed = row["kernels"], row["speed"]
        spread = f"{speed['median']:.2f} ({speed['quartile_1']:.2f}-{speed['quartile_3']:.2f})"
        counts = f"{sum(kernels['integer'].values())} | {sum(kernels['float'].values())}"
        lines.append(f"| {name} | {row['accuracy']:.2f} | {counts} | {row['bytes'] / 1e3:.0f} | {spread} |")
    return "\n".join(lines)


def save(path: Path, rows: dict[str, dict[str, Any]], rounds: int) -> None:
    """Write the rows that are done, with where they come from."""
    tools = {name: _version(name) for name in ("onnxruntime", "openvino", "nncf", "brevitas")}
    content = {"tools": tools, "rounds": rounds, "provenance": provenance(), "rows": rows}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Make what is missing, measure it, time all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("peers"), help="where the files that are made are kept")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=PATH", help="a trained file, as deployed")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    start = Start(options.weights, options.data)
    rows = json.loads(options.json.read_text(encoding="utf-8"))["rows"] if options.json.exists() else {}
    paths: dict[str, Path] = {}
    for name, (file, make) in post_training(start, options.folder).items():
        paths[name] = options.folder / file
        if not paths[name].exists():
            make(paths[name])
    paths |= {name: Path(path) for name, _, path in (given.rpartition("=") for given in options.file)}
    for name, path in paths.items():
        if name not in rows:
            rows[name] = measure(start, path)
            save(options.json, rows, options.rounds)
    for name, speed in speeds(paths, start, options.rounds).items():
        rows[name]["speed"] = speed
    rows = {name: rows[name] for name in paths}
    save(options.json, rows, options.rounds)
    print(table(rows))


if __name__ == "__main__":
    main()
