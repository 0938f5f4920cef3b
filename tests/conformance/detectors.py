"""Off-the-shelf detectors as they are: the integer file, and the file that decodes what it gives.

    QKD_DEPLOY_TIMM=.conformance python tests/conformance/detectors.py --json docs/results/detectors.json

Every network of ultralytics' families (with random weights, from its own configuration) is prepared without a wrapper,
trained three steps by its own loss, exported with ``tail="separate"``, and verified at several batch sizes: all codes
of the integer file, and the outputs of both files together against the float head of the frozen model. The exit status
is 1 where a code differs, a convolution other than a transposed one is left in float, or an output is off by more than
1e-4 of its range.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "support")]

import hub_models  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import qkd_deploy as qkd  # noqa: E402
from qkd_deploy.atomic import atomic_write  # noqa: E402
from qkd_deploy.graph.prepared import PreparedModel  # noqa: E402
from qkd_deploy.provenance import provenance  # noqa: E402
from qkd_deploy.verification.checks.decode import TOLERANCE  # noqa: E402

BATCHES = (1, 2, 7)
PIXELS = 64
STEPS = 3
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def deployed(build: Callable[[], nn.Module], bits: str, file: Path, pixels: int = PIXELS) -> PreparedModel:
    """Prepare a detector of random weights on noise, and write its files."""
    torch.manual_seed(0)
    network = build()
    batch = images(8, pixels)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        network.train()(batch)  # batch norms get the statistics of this batch
    model = qkd.prepare(network.eval(), bits, (batch[:2],))
    qkd.initialize(model, batch)
    train_by_own_loss(network, model, batch)
    qkd.export_onnx(model.eval(), file)
    return model


def train_by_own_loss(network: nn.Module, model: PreparedModel, batch: Tensor) -> None:
    """Three steps of a prepared network by the loss that ultralytics has for it, on boxes anywhere."""
    network.args = importlib.import_module("ultralytics.cfg").get_cfg()
    loss, wanted = network.init_criterion(), labels(len(batch))  # type: ignore[operator]
    if "Classification" in type(network).__name__:
        wanted["cls"] = torch.arange(len(batch))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model.train()
    for _ in range(STEPS):
        value = loss(model(batch), wanted)[0].sum()
        assert bool(torch.isfinite(value))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2


def labels(images: int) -> dict[str, Tensor]:
    """One object an image, as all losses of ultralytics take it: class, box, mask and key points."""
    boxes = torch.tensor([[0.5, 0.5, 0.6, 0.4]]).repeat(images, 1)
    masks = torch.zeros(images, PIXELS // 4, PIXELS // 4)
    masks[:, 5:11, 3:13] = 1
    points = torch.rand(images, 17, 3, generator=torch.Generator().manual_seed(0)).mul(0.4).add(0.3)
    points[..., 2] = 2
    found = {"batch_idx": torch.arange(images).float(), "bboxes": boxes, "masks": masks, "keypoints": points}
    return found | {"cls": torch.zeros(images, 1)}


def images(count: int, pixels: int, seed: int = 0) -> Tensor:
    """Noise with the range of pixels that the networks take."""
    return torch.rand(count, 3, pixels, pixels, generator=torch.Generator().manual_seed(seed))


def verified(model: PreparedModel, file: Path, pixels: int = PIXELS) -> Iterator[dict[str, Any]]:
    """What verification says at every batch size."""
    frozen = qkd.freeze(model)
    for count in BATCHES:
        inputs = images(count, pixels, seed=count).numpy()
        report = qkd.verify_onnx(file, inputs=inputs, frozen=frozen, prepared=model, batch_size=count)
        yield {
            "batch": count,
            "passed": report.passed,
            "compared": report.compared_codes,
            "differing": report.differing_codes,
            "decoded_within": report.decode_difference,
            "verdict": report.verdict.replace(str(file), file.name),
            "float_kernels": dict(Counter(kernel.op for kernel in report.float_ops)),
        }


def convolutions(model: PreparedModel) -> tuple[int, list[str]]:
    """How many convolutions of a network are layers in integers, and the names of the others.

    The mean of a distribution over bins is none: its numbers are fixed, and it is a part of decoding.
    """
    layers = {str(node.target) for node in model.layers()}
    found = {name for name, part in model.network.named_modules() if isinstance(part, _CONVOLUTIONS)}
    used = {name for name in found if name in layers}
    left = {str(node.target) for node in model.graph.nodes if not node.is_layer} & found
    return len(used), sorted(left)


def row(name: str, build: Callable[[], nn.Module], bits: str, pixels: int) -> dict[str, Any]:
    """Everything about one network."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.onnx"
        model = deployed(build, bits, file, pixels)
        used, left = convolutions(model)
        decode = file.with_name("m.decode.onnx")
        return {
            "network": name,
            "bits": bits,
            "pixels": pixels,
            "integer_convolutions": used,
            "convolutions_in_float": left,
            "file_bytes": file.stat().st_size,
            "decode_bytes": decode.stat().st_size if decode.exists() else None,
            "batches": list(verified(model, file, pixels)),
        }


def failure(found: dict[str, Any]) -> str:
    """What is wrong with a row; "" if nothing."""
    for batch in found["batches"]:
        within = batch["decoded_within"]
        if not batch["passed"] or batch["differing"] or (within is not None and within > TOLERANCE):
            return f"batch {batch['batch']}: {batch['verdict']}"
    return f"in float: {', '.join(found['convolutions_in_float'])}" if found["convolutions_in_float"] else ""


def in_words(found: dict[str, Any]) -> str:
    """A row as a line."""
    codes = sum(batch["compared"] for batch in found["batches"])
    differing = sum(batch["differing"] for batch in found["batches"])
    within = max((b["decoded_within"] for b in found["batches"] if b["decoded_within"] is not None), default=None)
    decoded = "no decode file" if within is None else f"decoded within {within:.2g}"
    floats = found["batches"][0]["float_kernels"]
    left = ", ".join(f"{count} {name}" for name, count in floats.items()) or "none"
    return (
        f"{found['network']} {found['bits']}: {found['integer_convolutions']} convolutions in integers, {differing} of "
        f"{codes:,} codes differ, {decoded} (batches {', '.join(map(str, BATCHES))}), float kernels: {left}"
    )


def main() -> int:
    """Print a line for every network, and write them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the rows go, with their provenance")
    parser.add_argument("--only", default="*", help="names of networks, with wildcards")
    parser.add_argument("--bits", default="w8a8")
    parser.add_argument("--pixels", type=int, default=PIXELS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    networks = hub_models.ultralytics_models()
    if not networks:
        print("ultralytics is not installed; make conformance installs it")  # noqa: T201
        return 1
    rows, failed = [], 0
    for name, build in networks.items():
        if fnmatch(name, options.only):
            rows.append(row(name, build, options.bits, options.pixels))
            problem = failure(rows[-1])
            failed += bool(problem)
            print(f"{in_words(rows[-1])}: {problem or 'ok'}", flush=True)  # noqa: T201
    if options.json is not None:
        source = provenance(f"python tests/conformance/detectors.py {shlex.join(sys.argv[1:])}")
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps({"provenance": source, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
