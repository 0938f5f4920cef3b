"""Integer accuracy of the methods at equal student epochs, from full-precision weights that all of them share.

    python benchmarks/accuracy.py --dataset cifar10 --data-dir DATA --init resnet20.pt --teacher resnet20:resnet20.pt \
        --epochs 4 --json docs/results/cifar10.json

Every entry is trained, exported and verified by the command line in processes of its own, and counts only when
``verify`` passed. A repeated call skips what is done. Results go to JSON with their provenance, and as a
table to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from provenance import provenance

_CLI = [str(Path(sys.executable).with_name("qkd-deploy"))]


def main() -> None:
    """Run all entries and write the results."""
    options = _options()
    entries = list(product(options.bits, options.methods, options.seeds))
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda entry: _entry(options, *entry), entries))
    report = {
        "provenance": _without_folders(provenance(), options),
        "float": _float_accuracy(options),
        "epochs": options.epochs,
        "threads_per_run": options.threads,
        "results": results,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for row in results:
        accuracy = row["accuracy"]
        numbers = " | ".join(f"{accuracy[side]:.2f}" for side in ("preview", "frozen", "runtime"))
        verdict = "yes" if row["verified"] else "NO"
        print(f"| {row['bits']} | {row['method']} | {row['seed']} | {numbers} | {row['differing_codes']} | {verdict} |")


def _entry(options: argparse.Namespace, bits: str, method: str, seed: int) -> dict[str, Any]:
    folder = options.out / f"{bits}-{method}-{seed}"
    done = folder / "result.json"
    if done.exists():
        loaded: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return loaded
    data = ["--dataset", options.dataset, *(["--data-dir", str(options.data_dir)] if options.data_dir else [])]
    command = ["train", *data, "--bits", bits, "--method", method, "--epochs", str(options.epochs), "--seed", str(seed)]
    command += ["--model", options.model, "--init", str(options.init), "--lr", str(options.lr)]
    command += [] if method == "qat" else ["--teacher", options.teacher]
    command += ["--compile"] if options.compile else []
    command += ["--resume"] if (folder / "checkpoints" / "last.pt").exists() else []
    started = time.monotonic()
    trained = _run(options, [*command, "--out", str(folder), "--json"])
    seconds = time.monotonic() - started
    checkpoint, file = folder / "model.pt", folder / "model.onnx"
    _run(options, ["export", "--bits", bits, "--output", str(file), str(checkpoint)], parse=False)
    verify = ["verify", str(file), *data, "--checkpoint", str(checkpoint), "--require-integer", "--json", "-"]
    verified = _run(options, verify, allowed=(0, 1))
    result = {
        "bits": bits,
        "method": method,
        "seed": seed,
        "accuracy": verified["accuracy"],
        "images": verified["images"],
        "dataset": verified["dataset"]["name"],
        "differing_codes": verified["differing_codes"],
        "verified": verified["passed"],
        "teacher_accuracy": trained["teacher_accuracy"],
        "training_seconds": round(seconds),
        "settings": _without_folders(trained["settings"], options),
    }
    done.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _run(
    options: argparse.Namespace, arguments: list[str], *, parse: bool = True, allowed: tuple[int, ...] = (0,)
) -> dict[str, Any]:
    """Run one command; its progress goes to the log of the call."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    with (options.out / "log.txt").open("a", encoding="utf-8") as log:
        done = subprocess.run([*_CLI, *arguments], stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    if done.returncode not in allowed:
        raise SystemExit(f"{' '.join(arguments)} ended with exit code {done.returncode}; see {options.out / 'log.txt'}")
    parsed: dict[str, Any] = json.loads(done.stdout) if parse else {}
    return parsed


def _float_accuracy(options: argparse.Namespace) -> dict[str, Any]:
    """What the checkpoint of the starting weights says about itself."""
    from qkd_deploy.training.checkpoint import load_checkpoint

    training = load_checkpoint(options.init).training
    return {"accuracy": training.accuracy, "images": training.images, "epochs": training.epochs, "seed": training.seed}


def _without_folders(value: Any, options: argparse.Namespace) -> Any:
    """Results name files, not the folders of the machine they were made on."""
    if isinstance(value, dict):
        return {key: _without_folders(item, options) for key, item in value.items()}
    if isinstance(value, str):
        for folder, name in ((options.data_dir, "DATA"), (options.init.parent, "."), (options.out, "RUNS")):
            value = value.replace(str(folder), name) if folder else value
    return value


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--init", type=Path, required=True, help="full-precision weights that all students start from")
    parser.add_argument("--teacher", required=True, help="NAME:FILE")
    parser.add_argument("--epochs", type=int, required=True, help="student epochs of every method")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=["qat", "kd", "qkd"])
    parser.add_argument("--bits", type=lambda text: text.split(","), default=["w4a4", "w2a2"])
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0])
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--compile", action="store_true", help="train through torch.compile")
    parser.add_argument("--jobs", type=int, default=1, help="entries at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads per entry")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    main()
