r"""Finish a calibrated network without labels in two ways, in equal CPU time: layer by layer, and by distillation.

    python benchmarks/finishing.py resnet20 cifar10-resnet20.pt cifar-10-batches-bin --bits w4a4 --json finishing.json

"Distilled" trains all parameters and scales end to end on the same images, with the logits of the network in full
precision as targets (SQAKD's loss, arXiv:2403.11106), Adam, random shifts and flips, and batch norms frozen; its
learning rate falls by a cosine over the CPU time that ``reconstruct`` took on one thread, times --factors.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pretrained import Measured
from provenance import provenance
from torch import Tensor

from qkd_deploy import calibrate, freeze, prepare, reconstruct
from qkd_deploy.data.augment.crop_and_flip import CropAndFlip
from qkd_deploy.distill.losses import distillation_kl
from qkd_deploy.graph.prepared import PreparedModel


def prepared_network(measured: Measured, bits: str) -> PreparedModel:
    """The network, calibrated with the defaults."""
    size = measured.spec.size
    example = torch.full((1, 3, size, size), -1.0)
    prepared = prepare(measured.network, bits, (example,), normalization=measured.spec.normalization)
    calibrate(prepared, measured.calibration())
    return prepared.eval()


def accuracy(measured: Measured, prepared: PreparedModel) -> dict[str, float]:
    """The rates of the integer model."""
    with torch.no_grad():
        frozen = freeze(prepared.eval())
        return measured.rates(torch.cat([frozen(batch).argmax(1) for batch in measured.held_out()]))


def distill(measured: Measured, prepared: PreparedModel, seconds: float, rate: float, batch: int) -> int:
    """Train ``prepared`` for so many seconds of CPU time; returns the number of steps."""
    pixels, spec = torch.from_numpy(measured.images.calibration), measured.spec
    augmentation, generator = CropAndFlip(spec.size // 8, flip=True), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(prepared.parameters(), lr=rate)
    prepared.eval()
    prepared.training = True  # quantizers of training; batch norms stay with their running statistics
    began, steps = time.process_time(), 0
    while (progress := (time.process_time() - began) / seconds) < 1:
        chosen = pixels[torch.randint(len(pixels), (batch,), generator=generator)]
        images: Tensor = spec.normalize(augmentation(chosen, generator).numpy())
        with torch.no_grad():
            targets = measured.network(images)
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * progress))
        optimizer.zero_grad()
        distillation_kl(prepared(images), targets, 1.0).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        steps += 1
    return steps


def main() -> None:
    """Measure, print a table and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bits", nargs="*", default=["w4a4"])
    parser.add_argument("--images", type=int, default=500, help="for calibration and what follows")
    parser.add_argument("--rates", nargs="*", type=float, default=[1e-4, 1e-3])
    parser.add_argument("--factors", nargs="*", type=float, default=[1.0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--after", action="store_true", help="distill behind reconstruct as well")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = Measured(options)
    rows: list[dict[str, Any]] = []

    def add(bits: str, name: str, prepared: PreparedModel | None, seconds: float, steps: int = 0) -> None:
        rates = measured.rates(measured.float_answers) if prepared is None else accuracy(measured, prepared)
        rows.append({"bits": bits, "form": name, "cpu_seconds": round(seconds, 1), "steps": steps, **rates})
        print(f"| {bits} | {name} | {seconds:.0f} | {rates['accuracy']:.2f} | {rates['agreement']:.2f} |", flush=True)

    print("| bits | form | CPU s | accuracy | agreement |\n|---|---|---|---|---|")
    add("", "full precision", None, 0)
    for bits in options.bits:
        calibrated = prepared_network(measured, bits)
        add(bits, "calibrated", calibrated, 0)
        reconstructed, began = copy.deepcopy(calibrated), time.process_time()
        reconstruct(reconstructed, measured.network, measured.calibration())
        seconds = time.process_time() - began
        add(bits, "reconstructed", reconstructed, seconds)
        starts = {"": calibrated, **({"reconstructed, then ": reconstructed} if options.after else {})}
        for name, start in starts.items():
            for factor in options.factors:
                for rate in options.rates:
                    student = copy.deepcopy(start)
                    steps = distill(measured, student, factor * seconds, rate, options.batch)
                    add(bits, f"{name}distilled, {rate:g}, {steps} steps", student, factor * seconds, steps)
    if options.json is not None:
        record = {"network": options.network, "results": rows, "provenance": provenance()}
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
