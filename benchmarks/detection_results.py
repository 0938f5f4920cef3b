"""All figures of a detector before and after quantization: of the float start, and of the entries of sweeps from it.

python benchmarks/detection_results.py START.pt runs/bccd/results.json --json docs/results/bccd.json

Prints a Markdown table: for each combination the mean over its seeds, as ONNX Runtime measures the exported files, and
how far it is from the float start.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from provenance import provenance

from qkd_deploy import load_dataset
from qkd_deploy.checkpoints.checkpoint import load_checkpoint
from qkd_deploy.training.loop.evaluate import evaluate
from qkd_deploy.training.networks import start_network


def float_figures(start: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Measure the network that the sweeps started from, on the images that they were measured on."""
    dataset = load_dataset(settings["dataset"], settings["data_dir"], image_size=settings["image_size"])
    torch.set_num_threads(settings["threads"] or torch.get_num_threads())
    network = start_network(settings["model"], start, dataset, args=load_checkpoint(start).model.args)
    score = dataset.score()
    evaluate(network.eval(), dataset.test, score=score)
    return score.figures()


def rows(sweeps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average the figures of the verified entries over their seeds; entries that did not run are left out."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for sweep in sweeps:
        for entry in sweep["entries"]:
            if entry["verified"]:
                settings = sweep["settings"] | entry["settings"]
                parts = [f"{pattern} {bits}" for pattern, bits in settings["bits_for"].items()]
                found.setdefault((", ".join([settings["bits"], *parts]), settings["method"]), []).append(entry)
    return [
        {
            "bits": bits,
            "method": method,
            "seeds": len(entries),
            "mean": {name: fmean(entry["figures"][name] for entry in entries) for name in entries[0]["figures"]},
            "deviation": {name: _deviation(entries, name) for name in entries[0]["figures"]},
            "compared_codes": sum(entry["compared_codes"] for entry in entries),
            "differing_codes": sum(entry["differing_codes"] for entry in entries),
        }
        for (bits, method), entries in found.items()
    ]


def _deviation(entries: list[dict[str, Any]], name: str) -> float | None:
    values = [entry["figures"][name] for entry in entries]
    return stdev(values) if len(values) > 1 else None


def show(start: dict[str, float], table: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(f"| bits | method | {' | '.join(start)} | differing codes |\n|---|---|{'---|' * (len(start) + 1)}")
    print(f"| fp32 | | {' | '.join(f'{value:.2f}' for value in start.values())} | |")
    for row in table:
        cells = []
        for name, value in row["mean"].items():
            spread = "" if row["deviation"][name] is None else f" ± {row['deviation'][name]:.2f}"
            cells.append(f"{value:.2f}{spread} ({value - start[name]:+.2f})")
        codes = f"{row['differing_codes']} of {row['compared_codes']:,}"
        print(f"| {row['bits']} | {row['method']} | {' | '.join(cells)} | {codes} |")


def main() -> None:
    """Measure the start, join the sweeps, print the table and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("start", type=Path)
    parser.add_argument("sweeps", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sweeps = [json.loads(path.read_text(encoding="utf-8")) for path in options.sweeps]
    start, table = float_figures(options.start, sweeps[0]["settings"]), rows(sweeps)
    show(start, table)
    if options.json:
        content = {"provenance": provenance(), "float": start, "rows": table, "sweeps": sweeps}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
