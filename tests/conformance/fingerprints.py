"""One hash for every file that the project makes, to show that a change of its code changes nothing that it computes.

    python tests/conformance/fingerprints.py --json before.json
    ... change the code ...
    python tests/conformance/fingerprints.py --json after.json --against before.json

Networks: those of the conformance suite, of timm (where it is installed) and all built-in ones. Each is exported at
three widths with int8 and packed weights, and at one of them for raw pixels. ``--training`` adds short trainings, one
for every method and quantizer: hashes of the trained weights and of the frozen constants.

Hashes are of one machine: other CPUs sum floats in other orders. The exit status is 1 where one differs or is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "support")]

import onnx  # noqa: E402
import timm_models  # noqa: E402
import torch  # noqa: E402
from architectures import ARCHITECTURES  # noqa: E402
from structured_data import samples, vary  # noqa: E402
from torch import nn  # noqa: E402

import qkd_deploy as qkd  # noqa: E402

WIDTHS = ("w8a8", "w4a4", "w2a4")
RAW_PIXELS = (1 / 64, 128)
PIXELS_AT = "w4a4"
NORMALIZATION = {"mean": 128.0, "std": 64.0}
BUILT_IN = (
    "plaincnn", "resnet8", "resnet20", "resnet32", "resnet56", "resnet18", "resnet34", "resnet50", "mobilenetv2",
    "efficientnet_b0", "efficientnet_lite0",
)  # fmt: skip
TRANSFORMERS = ("vit_tiny", "deit_tiny")
CHANGING = ("qkd_deploy.version", "qkd_deploy.digests")
"""Metadata left out of a hash: the version, and the digests, one of which is the version's."""

METHODS = ("qkd", "sqakd", "gslr", "qfd", "kd", "qat")
QUANTIZERS = ("lsq", "pact", "dorefa", "ewgs", "qil")
TRAINING = ("--model", "plaincnn", "--teacher", "resnet8", "--epochs", "3", "--batch-size", "144")

BRIEFLY = ("--pretrain-epochs", "1", "--teacher-pretrain-epochs", "1")

Network = tuple[str, Callable[[], nn.Module], tuple[int, ...]]


def networks() -> Iterator[Network]:
    """Name, factory and shape of an input of every network."""
    for name, known in ARCHITECTURES.items():
        yield f"own: {name}", known.build, known.shape
    for name in BUILT_IN:
        yield f"built-in: {name}", partial(qkd.create_model, name, 10), (3, 64, 64)
    for name in TRANSFORMERS:
        small = {"image_size": 64}
        yield f"built-in: {name}", partial(qkd.create_model, name, 10, args=small), (3, 64, 64)
    if not timm_models.missing():
        for name in timm_models.MODELS:
            yield f"timm: {name}", partial(timm_models.build, name), timm_models.input_shape(name)


def exported(build: Callable[[], nn.Module], shape: tuple[int, ...], folder: Path) -> Iterator[tuple[str, str]]:
    """Hashes of a network's files, each with the name of its form."""
    for bits in WIDTHS:
        frozen = _frozen(build, shape, bits, None)
        for weights in ("int8", "packed"):
            yield f"{bits} {weights}", _file_hash(frozen, folder, weights=weights)
    pixels = {"input": "uint8", "metadata": {"normalization": NORMALIZATION}}
    frozen = _frozen(build, shape, PIXELS_AT, RAW_PIXELS)
    yield f"{PIXELS_AT} int8 uint8", _file_hash(frozen, folder, weights="int8", **pixels)


def _frozen(build: Callable[[], nn.Module], shape: tuple[int, ...], bits: str, pixels: Any) -> nn.Module:
    torch.manual_seed(0)
    network = build()
    vary(network)
    inputs, _ = samples(shape, 8, seed=100)
    with torch.no_grad():
        network.train()(inputs)  # batch norms get statistics
    prepared = qkd.prepare(network.eval(), bits, (inputs[:2],), input_quantization=pixels)
    qkd.initialize(prepared, inputs)
    return qkd.freeze(prepared.eval())


def _file_hash(frozen: nn.Module, folder: Path, **options: Any) -> str:
    path = folder / "model.onnx"
    try:
        qkd.export_onnx(frozen, path, **options)
    except qkd.UserError as error:
        return f"refused: {error}"
    model = onnx.load(path)
    kept = [entry for entry in model.metadata_props if entry.key not in CHANGING]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()[:16]


def trained(folder: Path) -> Iterator[tuple[str, str]]:
    """Hashes of the weights and the frozen constants after ten steps a phase, for every method and quantizer."""
    choices = [*((method, None) for method in METHODS), *(("qat", quantizer) for quantizer in QUANTIZERS)]
    for method, quantizer in choices:
        out = folder / f"{method}-{quantizer}"
        command = ["train", *TRAINING, *BRIEFLY, "--method", method, "--device", "cpu", "--out", str(out)]
        command += [] if quantizer is None else ["--quantizer", quantizer]
        command += [] if method != "sqakd" else ["--model", "resnet8"]
        program = "from qkd_deploy.cli.main import main; main()"
        run = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True)
        if run.returncode:
            yield f"training: {method}, {quantizer or 'own quantizer'}", f"failed: {run.stderr.strip()}"
            continue
        model = qkd.load(out / "model.pt")
        for name, tensors in (("weights", model.state_dict()), ("frozen", qkd.freeze(model.eval()).state_dict())):
            yield f"training: {method}, {quantizer or 'own quantizer'}, {name}", _tensors_hash(tensors)


def _tensors_hash(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for value in tensors.values():  # names may change, the order may not
        digest.update(str((value.dtype, tuple(value.shape))).encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def main() -> int:
    """Print a hash per file, write them, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where the hashes go")
    parser.add_argument("--against", type=Path, help="hashes of an earlier state of the code")
    parser.add_argument("--only", default="*", help="names of networks, with wildcards; 'nothing' leaves all out")
    parser.add_argument("--training", action="store_true", help="train, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, str] = {}

    def note(name: str, value: str) -> None:
        found[name] = value
        print(f"{value}  {name}", flush=True)  # noqa: T201
        options.json.write_text(json.dumps(found, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        for network, build, shape in networks():
            if fnmatch(network, options.only):
                for form, value in exported(build, shape, Path(folder)):
                    note(f"{network}: {form}", value)
        if options.training:
            for name, value in trained(Path(folder)):
                note(name, value)
    if options.against is None:
        return 0
    return _compared(found, json.loads(options.against.read_text()), options)


def _compared(found: dict[str, str], before: dict[str, str], options: argparse.Namespace) -> int:
    wanted = {
        name: value
        for name, value in before.items()
        if (options.training if name.startswith("training: ") else fnmatch(name.rpartition(": ")[0], options.only))
    }
    differing = [name for name, value in wanted.items() if found.get(name) != value]
    for name in differing:
        print(f"DIFFERS: {name}: {wanted[name]}, now {found.get(name)}")  # noqa: T201
    print(f"{len(differing)} of {len(wanted)} differ")  # noqa: T201
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
