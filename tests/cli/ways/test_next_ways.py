"""Every command that a command prints, for the user to run next, works as it is printed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_ways import command, edits

import qkd_deploy as qkd

QAT = "train --method qat --epochs 1 --pretrain-epochs 1 --batch-size 20"
GREYS = 'own:greys --dataset-arg count=30 --dataset-arg \'names=["a", "b b", "c"]\''
CALIBRATE = "export float.pt --calibrate-images 8 --bits w8a8"


def printed(text: str, before: str) -> str:
    """The one command that is printed behind some words."""
    (line,) = [line for line in text.splitlines() if line.startswith(before)]
    return line.removeprefix(f"{before} qkd-deploy ")


@pytest.mark.parametrize(
    "line",
    [
        f"{QAT} --dataset data.npz --model plaincnn --out new",
        f"{QAT} --dataset data.npz --model own:net --out 'a new one'",
        f"{QAT} --dataset data.npz --model own:deep --model-arg depth=2 --out new",
        f"{QAT} --dataset data.npz --model plaincnn --out new --bits-for fc=w4a4",
        f"{CALIBRATE} --calibrate data.npz",
        f"{CALIBRATE} --calibrate data.npz --output 'a new one/m.onnx' --model own:net",
        f"{CALIBRATE} --calibrate {GREYS}",
        f"{CALIBRATE} --calibrate {GREYS} --image-size 8 --normalization 0.5/0.5",
    ],
)
def test_what_comes_next(folder: Path, line: str) -> None:
    done = command(line, folder)
    assert done.code == 0, done.err
    following = command(printed(done.out, "next:"), folder)
    assert following.code == 0, following.err


def test_an_interrupted_run_is_continued(folder: Path) -> None:
    done = command(f"{QAT} --dataset data.npz --model own:Interrupted --out 'a new one'", folder)
    assert done.code == 130 and done.err.endswith("Interrupted.\n"), done.err
    edits("own.py", "raise KeyboardInterrupt", "pass")(folder)
    following = command(printed(done.err, "continue with:"), folder)
    assert following.code == 0, following.err
    assert (folder / "a new one" / "model.pt").is_file()


def test_chosen_bits_are_repeated_by_hand(folder: Path) -> None:
    line = "export float.pt --calibrate data.npz --calibrate-images 8 --output m.onnx"
    done = command(f"{line} --auto-bits 'bitops<=30%'", folder)
    (found,) = [text for text in done.out.splitlines() if "; the same by hand: " in text]
    written = (folder / "m.onnx").read_bytes()
    assert command(f"{line} {found.partition('; the same by hand: ')[2]}", folder).code == 0
    assert (folder / "m.onnx").read_bytes() == written


def test_chosen_bits_are_trained_by_hand(folder: Path) -> None:
    line = f"{QAT} --dataset data.npz --model plaincnn"
    done = command(f"{line} --auto-bits 'bitops<=30%' --out chosen", folder)
    assert done.code == 0, done.err
    (found,) = [text for text in done.err.splitlines() if "; the same by hand: " in text]
    again = command(f"{line} {found.partition('; the same by hand: ')[2]} --out hand", folder)
    assert again.code == 0, again.err
    chosen, hand = (qkd.load(folder / name / "model.pt") for name in ("chosen", "hand"))
    assert chosen.settings == hand.settings
    assert all(torch.equal(value, hand.state_dict()[name]) for name, value in chosen.state_dict().items())
