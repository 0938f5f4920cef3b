"""Ways out of mistakes with commands, options and their values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_ways import Line, command, edits, follow, require_all, runs

TEST = "tests/cli/ways/test_command_ways.py::test_the_way_out_works"
RUN = "train --dataset data.npz --batch-size 20 --out new"
QAT = f"{RUN} --method qat --epochs 1 --pretrain-epochs 1"
DEEP = f"{QAT} --model own:deep"
QKD = f"{RUN} --model plaincnn --init float.pt --teacher plaincnn:float.pt"
CALIBRATE = "export float.pt --calibrate data.npz --calibrate-images 8 --output new.onnx"
VERIFY = "verify model.onnx"

WAYS = {
    "a misspelt command": Line("verfy model.onnx", "no command", VERIFY, advice="did you mean 'verify'?"),
    "another command": Line(
        "show model.onnx",
        "no command",
        "inspect model.onnx",
        advice="choose one of train, sweep, export, verify, report, inspect, handoff, bench",
    ),
    "a misspelt choice": Line(
        "export model.pt --weights pakced",
        "is not supported",
        "export model.pt --weights packed",
        advice="did you mean 'packed'?",
    ),
    "a choice that there is not": Line(
        "export model.pt --target tensorrt",
        "is not supported",
        "export model.pt --target ort",
        advice="choose one of ort",
    ),
    "epochs that are no number": Line(f"{QKD} --epochs many", "give one number, or one per phase", f"{QKD} --epochs 3"),
    "epochs of phases": Line(f"{QKD} --epochs 1/1/1", "give one number, or one per phase", f"{QKD} --epochs 1,1,1"),
    "names without commas": Line(
        f"{QKD} --epochs 1,1 --phases self-study,",
        "write names with commas between them",
        f"{QKD} --epochs 1,1 --phases self-study,tutor",
    ),
    "an argument without its value": Line(
        f"{DEEP} --model-arg depth", "write KEY=VALUE", f"{DEEP} --model-arg depth=3"
    ),
    "true in Python": Line(
        f"{DEEP} --model-arg day=True", "is Python's spelling", f"{DEEP} --model-arg day=true", advice="write day=true"
    ),
    "nothing in Python": Line(
        f"{DEEP} --model-arg day=None", "is Python's spelling", DEEP, advice="leave the argument out"
    ),
    "a value of no kind": Line(f"{DEEP} --model-arg day=1st", "is no value", f"{DEEP} --model-arg 'day=\"1st\"'"),
    "an option of calibration": Line(
        "export float.pt --bits w8a8 --calibrate-images 8",
        "{} belongs to {}; give {} too",
        "export float.pt --bits w8a8 --calibrate-images 8 --calibrate data.npz",
        advice="give --calibrate DATASET too",
    ),
    "an option of sensitivity": Line(
        "inspect float.pt --limit 8",
        "{} belongs to {}; give {} too",
        "inspect float.pt --limit 8 --sensitivity",
        advice="give --sensitivity too",
    ),
    "no bits to calibrate to": Line(CALIBRATE, "say to which bits", f"{CALIBRATE} --bits w8a8"),
    "a network without its weights": Line(
        f"{VERIFY} --model plaincnn", "--model says which network", f"{VERIFY} --model plaincnn --checkpoint model.pt"
    ),
    "a network to time without its weights": Line(
        "bench model.onnx --rounds 1 --against fp32 --model plaincnn",
        "--model says which network",
        "bench model.onnx --rounds 1 --against fp32 --model plaincnn --checkpoint model.pt",
    ),
    "a checkpoint to time": Line(
        "bench model.onnx --rounds 1 --checkpoint model.pt",
        "--checkpoint holds the network that fp32 is",
        "bench model.onnx --rounds 1 --checkpoint model.pt --against fp32",
    ),
    "a checkpoint that was replaced in": Line(
        "bench relu6.onnx --rounds 1 --checkpoint relu6.quantized.pt",
        "--checkpoint holds the network that fp32 is",
        "bench relu6.onnx --rounds 1 --checkpoint relu6.quantized.pt --against unreplaced",
        before=runs(f"{CALIBRATE.replace('new', 'relu6')} --bits w8a8 --replace relu=relu6"),
    ),
    "no proof": Line(
        f"{VERIFY} --require-checkpoint",
        "asks for proof against a checkpoint",
        f"{VERIFY} --require-checkpoint --checkpoint model.pt",
    ),
    "a report in the place of a file": Line(
        f"{VERIFY} --json model.onnx", "--json would replace", f"{VERIFY} --json report.json"
    ),
    "a part of no data": Line(
        f"{VERIFY} --split train", "belong to a data set", f"{VERIFY} --split train --dataset data.npz"
    ),
    "a number of no images": Line(
        f"{VERIFY} --limit 5", "--limit counts images", f"{VERIFY} --limit 5 --dataset data.npz"
    ),
    "a number of no inputs": Line(
        f"{VERIFY} --limit 5",
        "--limit counts images",
        f"{VERIFY} --limit 5 --inputs x.npy",
        mend=lambda folder: np.save(folder / "x.npy", np.zeros((8, 1, 8, 8), np.float32)),
    ),
    "code that ends the program": Line(
        f"{QAT} --model own:Plain",
        "code that was imported called exit",
        f"{QAT} --model own:Plain",
        before=edits("own.py", "return self.fc", "raise SystemExit(0)\n        return self.fc"),
        mend=edits("own.py", "raise SystemExit(0)\n", ""),
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_way_out_works(folder: Path, name: str) -> None:
    follow(WAYS[name], folder, TEST)


def test_every_sentence_has_a_row() -> None:
    require_all(WAYS, TEST)


def test_a_full_disk_behind_stdout(small: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = command("inspect model.onnx", small, stdout=full)
    assert (done.code, done.err) == (
        2,
        "Error: cannot read or write: No space left on device; check the path and the space left\n",
    )
    done = command("inspect model.onnx", small)
    assert done.code == 0 and "features.0" in done.out
