"""``--auto-bits``: the file that is written meets the budget, and can be repeated by hand."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from qkd_deploy import create_model, load_dataset
from qkd_deploy.data import normalize

EXPORT = "export --calibrate digits --calibrate-images 32 --weights packed --model resnet8 float.pt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float.pt: weights whose batch norms have statistics of real images."""
    found = tmp_path_factory.mktemp("auto")
    torch.manual_seed(0)
    network = create_model("resnet8", 10, 1)
    network(normalize(load_dataset("digits").train.images[:256]))
    torch.save(network.state_dict(), found / "float.pt")
    return found


def test_the_written_file_meets_the_budget_and_is_repeated_by_hand(folder: Path, run: Any, warm_run: Any) -> None:
    done = run(f"{EXPORT} --auto-bits 'size<=70kB' --output auto.onnx", folder)
    assert done.code == 0, done.err
    size = (folder / "auto.onnx").stat().st_size
    assert 50_000 < size <= 70_000
    said = next(line for line in done.out.splitlines() if line.startswith("size<=70kB: "))
    assert f"size<=70kB: {size:,} bytes (" in said and " predicted), " in said
    by_hand = shlex.split(said.partition("the same by hand: ")[2])
    assert by_hand.count("--bits-for") >= 3
    again = warm_run(f"{EXPORT} {shlex.join(by_hand)} --output hand.onnx", folder)
    assert again.code == 0, again.err
    assert (folder / "hand.onnx").read_bytes() == (folder / "auto.onnx").read_bytes()
    assert (folder / "hand.quantized.pt").read_bytes() == (folder / "auto.quantized.pt").read_bytes()


def test_json_holds_the_choice(folder: Path, warm_run: Any) -> None:
    line = f"{EXPORT} --auto-bits bitops<=50% --auto-bits-from w8a8,w4a4 --bits w4a4 --output ops.onnx --json"
    done = warm_run(line, folder)
    assert done.code == 0, done.err
    table = json.loads(done.out)
    choice = table["calibration"]["auto_bits"]
    assert choice["cost"] <= choice["limit"] == 0.5 * choice["widest"]
    written = {layer["module"]: f"w{layer['weight_bits']}a{layer['activation_bits']}" for layer in table["layers"]}
    assert {module: written[module] for module in choice["bits_for"]} == choice["bits_for"]
    assert table["bits"] == "w4a4"


BAD = {
    f"{EXPORT} --auto-bits size<=2Mb": ("the unit 'Mb'", "choose one of B, kB"),
    f"{EXPORT} --auto-bits latency<=3ms": ("does not depend on bits", "write size<=2MB"),
    f"{EXPORT} --auto-bits size<=20kB": ("cannot be met", "the smallest possible with these bits is", "bytes"),
    f"{EXPORT} --auto-bits size<=50% --auto-bits-from w8a8": ("nothing to choose from", "w8a8,w4a4"),
    f"{EXPORT} --auto-bits size<=50% --auto-bits-from w8a9": ("out of range", "did you mean 'w8a8'?"),
    f"{EXPORT.replace('packed', 'int8')} --auto-bits size<=50%": ("give --weights packed",),
    "export --auto-bits size<=50% float.pt": ("--auto-bits belongs to --calibrate",),
    "train --model resnet8 --auto-bits size<=20kB --out run": ("the smallest possible with these bits is", "bytes"),
    "train --model resnet8 --auto-bits sise<=3kB --out run": ("an unknown 'sise'", "write size<=2MB"),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_budgets_are_one_line_and_leave_nothing(folder: Path, warm_run: Any, line: str) -> None:
    before = sorted(folder.iterdir())
    done = warm_run(line, folder)
    assert (done.code, done.out) == (2, "")
    error = done.err.splitlines()[-1]
    assert error.startswith("Error: ") and "Traceback" not in done.err
    for text in BAD[line]:
        assert text in error
    assert sorted(folder.iterdir()) == before


def test_a_training_run_chooses_once(folder: Path, warm_run: Any) -> None:
    bits = "--auto-bits size<=90kB --auto-bits-from w8a8,w4a4"
    done = warm_run(f"train {bits} --model resnet8 --method qat --init float.pt --epochs 1 --out run", folder)
    assert done.code == 0, done.err
    assert "size<=90kB: " in done.err and "the same by hand: --bits w4a4 --bits-for " in done.err
    chosen = json.loads((folder / "run/checkpoints/bits.json").read_text())
    quantization = torch.load(folder / "run/model.pt", weights_only=True)["quantization"]
    assert quantization["overrides"] == chosen and chosen
    assert warm_run("export run/model.pt --weights packed", folder).code == 0
    assert 50_000 < (folder / "run/model.onnx").stat().st_size <= 90_000
    resumed = warm_run("train --resume --out run", folder)
    assert resumed.code == 0 and "size<=90kB: " not in resumed.err
