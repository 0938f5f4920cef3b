"""Accuracy in ONNX Runtime after post-training quantization, by bits and method of calibration, as a Markdown table.

python benchmarks/calibration.py --data-dir DATA resnet20.pt
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from provenance import provenance

from qkd_deploy import calibrate, load_dataset
from qkd_deploy.checkpoints.checkpoint import prepare_student
from qkd_deploy.data import ImageDataset, batches
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.graph.placement.settings import NetworkBits
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.quantizers.scale_search import METHODS
from qkd_deploy.training.loop.evaluate import evaluate
from qkd_deploy.training.networks import start_network
from qkd_deploy.verification.runtime import RuntimeModel


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Accuracy in percent: of the full-precision network, and by method (with "+ bn": batch norms anew) and bits."""
    dataset = load_dataset(options.dataset, options.data_dir)
    network = start_network(options.model, options.weights, dataset).eval()
    result: dict[str, Any] = {
        "dataset": dataset.known_as,
        "images": len(dataset.test),
        "float": evaluate(network, dataset.test),
        "integer": {},
    }
    print(f"{options.model} on {result['images']} images of {result['dataset']}: {result['float']:.2f} % in float\n")
    print(f"| method | {' | '.join(options.bits)} |\n|---|{'---|' * len(options.bits)}")
    for method in [*METHODS, f"{METHODS[0]} + bn"]:
        name, _, batch_norm = method.partition(" + ")
        row = {}
        for bits in options.bits:
            settings = NetworkBits(bits=bits).quantization(dataset.normalization)
            prepared = prepare_student(network, list(dataset.train.image_shape), settings)
            calibrate(prepared, dataset, method=name, images=options.images, batch_norm=bool(batch_norm))
            row[bits] = runtime_accuracy(prepared, dataset)
            print(f"{method} {bits}: {row[bits]:.2f}", file=sys.stderr, flush=True)
        result["integer"][method] = row
        print(f"| {method} | {' | '.join(f'{accuracy:.2f}' for accuracy in row.values())} |", flush=True)
    return result


def runtime_accuracy(prepared: PreparedModel, dataset: ImageDataset) -> float:
    """Percent of the held-out images that the exported model classifies correctly."""
    model, _ = build_model(prepared)
    session, name = RuntimeModel(model), model.graph.input[0].name
    correct = 0
    for images, labels in batches(dataset.test, 250):
        (logits,) = session.run({name: images.numpy()}).values()
        correct += int((logits.argmax(1) == labels.numpy()).sum())
    return 100 * correct / len(dataset.test)


def main() -> None:
    """Measure, print the table and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--bits", nargs="+", default=["w8a8", "w6a6", "w4a4"])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options)
    if options.json is not None:
        options.json.write_text(json.dumps({**result, "provenance": provenance()}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
