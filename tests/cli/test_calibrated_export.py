"""Post-training quantization from the command line: verified files from any weights, or one line and nothing."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from qkd_deploy import create_model, load_dataset
from qkd_deploy.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkd_deploy.checkpoints.records import ModelRecord, TrainingRecord, dataset_record
from qkd_deploy.data import batches
from qkd_deploy.training.loop.evaluate import evaluate

DIGITS = load_dataset("digits")
PTQ = "export --bits w8a8 --calibrate digits"
STARTS = {
    "state_dict": "--model resnet8 float.pt",
    "wrapped": "--model resnet8 wrapped.pt",
    "safetensors": "--model resnet8 float.safetensors",
    "checkpoint": "own.pt",
}
MODULES = {
    "payload.py": "import os\nos.mkdir('imported')\n",
    "own_nets.py": "from qkd_deploy.models.cifar_resnet import CifarResNet\n\n\n"
    "def net(num_classes, in_channels, blocks=2):\n    return CifarResNet(blocks, num_classes, in_channels)\n",
    "colours.py": "import torch\nfrom qkd_deploy.data import ImageDataset, Split\n\n\ndef data():\n"
    "    split = Split(torch.zeros(20, 3, 32, 32, dtype=torch.uint8), torch.arange(20) % 10)\n"
    "    return ImageDataset('colours', split, split, tuple('0123456789'))\n",
}


def trained_network() -> nn.Module:
    """A ResNet-8 after a few epochs on the digits."""
    torch.manual_seed(0)
    network, generator = create_model("resnet8", 10, 1), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=4 * 23)
    for _ in range(4):
        for images, labels in batches(DIGITS.train, 64, generator):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval()


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A folder with the same trained weights in every form, and their accuracy."""
    folder, network = tmp_path_factory.mktemp("floats"), trained_network()
    state, accuracy = network.state_dict(), evaluate(network, DIGITS.test)
    torch.save(state, folder / "float.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": v for name, v in state.items()}}, folder / "wrapped.pt")
    save_file(state, folder / "float.safetensors")
    for file, name in (("own.pt", "resnet8"), ("factory.pt", "payload:net")):
        model = ModelRecord(name, 10, 1, [1, 8, 8])
        training = TrainingRecord("pretrain", 4, 0, accuracy, len(DIGITS.test))
        save_checkpoint(folder / file, Checkpoint(dict(state), model, dataset_record(DIGITS), training))
    for name, text in MODULES.items():
        (folder / name).write_text(text)
    return folder, accuracy


def ok(outcome: Any) -> str:
    assert outcome.code == 0, outcome.err
    assert "Traceback" not in outcome.err
    return str(outcome.out)


def stored(path: Path) -> dict[str, Any]:
    return {p.key.removeprefix("qkd_deploy."): p.value for p in onnx.load(path).metadata_props}


@pytest.mark.parametrize("start", STARTS)
def test_weights_of_every_kind_end_verified(
    floats: tuple[Path, float], warm_run: Any, tmp_path: Path, start: str
) -> None:
    folder, accuracy = floats
    table = json.loads(ok(warm_run(f"{PTQ} --output {tmp_path / 'm.onnx'} {STARTS[start]} --json", folder)))
    reached = table["calibration"]
    assert reached["float_accuracy"] == accuracy > 90
    assert reached["warnings"] == {"coarse": [], "noisy": []}
    assert abs(reached["accuracy"] - accuracy) < 1.5
    assert reached["checkpoint"] == str(tmp_path / "m.quantized.pt")
    verify = "verify m.onnx --dataset digits --checkpoint m.quantized.pt --require-integer --tolerance 1"
    verdict = ok(warm_run(verify, tmp_path)).strip().splitlines()[-1]
    assert verdict.startswith("VERIFIED ") and f"{reached['accuracy']:.2f} %" in verdict


def test_the_installed_script_says_what_it_did_and_what_comes_next(
    floats: tuple[Path, float], run: Any, tmp_path: Path
) -> None:
    (tmp_path / "net.pt").write_bytes((floats[0] / "float.pt").read_bytes())
    done = run(f"{PTQ} --calibrate-images 100 --model resnet8 net.pt", tmp_path)
    lines = ok(done).strip().splitlines()
    assert lines[-4].startswith("wrote net.onnx (w8a8, ")
    assert lines[-3] == "wrote net.quantized.pt (the quantized checkpoint)"
    assert re.fullmatch(r"integer accuracy \S+ % on 359 held-out images of digits; \S+ % in full precision", lines[-2])
    assert lines[-1] == "next: qkd-deploy verify net.onnx --dataset digits --checkpoint net.quantized.pt"
    assert "w8a8 by mse on 100 images of digits" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.pt", "net.quantized.pt"]


def test_the_file_carries_what_a_trained_one_does(floats: tuple[Path, float], warm_run: Any, tmp_path: Path) -> None:
    options = "--bits-for layer3.*=w8a8 --residual shared --first-last-bits 6 --calibrate-method percentile"
    line = f"export --bits w4a4 --calibrate digits {options} --output {tmp_path / 'new' / 'm.onnx'} own.pt --json"
    table = json.loads(ok(warm_run(line, floats[0])))
    entries, file = stored(tmp_path / "new" / "m.onnx"), tmp_path / "new" / "m.quantized.pt"
    assert json.loads(entries["accuracy"]) == {
        "dataset": "digits",
        "fingerprint": DIGITS.fingerprint,
        "images": len(DIGITS.test),
        "integer": table["calibration"]["accuracy"],
    }
    assert json.loads(entries["normalization"]) == {"mean": 128, "std": 64}
    assert json.loads(entries["classes"]) == list(DIGITS.classes)
    assert entries["checkpoint_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert {layer["module"]: layer["weight_bits"] for layer in json.loads(entries["layers"])} == {
        **dict.fromkeys(("layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2"), 4),
        **dict.fromkeys(("layer3.0.conv1", "layer3.0.conv2", "layer3.0.downsample.0"), 8),
        "layer2.0.downsample.0": 4,
        "conv1": 6,
        "fc": 6,
    }
    checkpoint = load_checkpoint(file)
    assert checkpoint.training.method == "ptq"
    assert checkpoint.quantization is not None and checkpoint.quantization.residual == "shared"
    ok(warm_run(f"export --bits w4a4 {file} --output {tmp_path / 'again.onnx'}", tmp_path))
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "new" / "m.onnx").read_bytes()


def test_methods_and_numbers_of_images_give_other_steps(
    floats: tuple[Path, float], warm_run: Any, tmp_path: Path
) -> None:
    seen = set()
    methods = ("--calibrate-method minmax", "--calibrate-method lsq", "--calibrate-batch-norm")
    for options in ("", *methods, "--calibrate-images 20", "--no-calibrate-correction"):
        ok(warm_run(f"{PTQ} {options} --output {tmp_path / 'm.onnx'} own.pt", floats[0]))
        state = load_checkpoint(tmp_path / "m.quantized.pt").state_dict
        seen.add(tuple(float(v) for name, v in sorted(state.items()) if name.startswith("activations")))
    assert len(seen) == 6


def test_a_larger_drop_than_allowed_is_a_failed_check_with_both_files(
    floats: tuple[Path, float], warm_run: Any, tmp_path: Path
) -> None:
    line = f"export --bits w2a2 --first-last-bits 2 --calibrate digits --calibrate-images 40 {floats[0] / 'own.pt'}"
    failed = warm_run(f"{line} --output m.onnx --max-drop 0 --json", tmp_path)
    reached = json.loads(failed.out)["calibration"]
    assert failed.code == 1
    assert reached["drop"] == reached["float_accuracy"] - reached["accuracy"] > 0
    assert failed.err.strip().splitlines()[-1] == (
        f"FAILED: accuracy fell by {reached['drop']:.2f} points, more than --max-drop 0; both files are written"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.quantized.pt"]
    ok(warm_run(f"{line} --output m.onnx --max-drop 100", tmp_path))
    warned = [text for text in failed.err.splitlines() if text.startswith("warning: ")]
    assert reached["warnings"]["noisy"] and any("dB of signal over noise at w2a2" in text for text in warned)


def test_unlabelled_images_tell_how_often_both_networks_agree(
    floats: tuple[Path, float], warm_run: Any, tmp_path: Path
) -> None:
    for part, split in (("train", DIGITS.train), ("val", DIGITS.test)):
        (tmp_path / "images" / part).mkdir(parents=True)
        for place, image in enumerate(split.images[:40, 0]):
            Image.fromarray(image.numpy()).save(tmp_path / "images" / part / f"{place}.png")
    done = warm_run(
        f"export --bits w8a8 --calibrate imagefolder:images {floats[0] / 'own.pt'} --output m.onnx", tmp_path
    )
    lines = ok(done).strip().splitlines()
    assert re.fullmatch(
        r"integer agreement with full precision \S+ % on 40 held-out images of imagefolder:images", lines[-2]
    )
    verify = lines[-1].removeprefix("next: qkd-deploy ")
    assert ok(warm_run(verify, tmp_path)).strip().splitlines()[-1].startswith("VERIFIED ")


def test_own_networks_and_their_arguments(floats: tuple[Path, float], warm_run: Any, tmp_path: Path) -> None:
    folder, _ = floats
    line = f"{PTQ} --output {tmp_path / 'm.onnx'} --model own_nets:net --model-arg blocks=1 float.pt"
    ok(warm_run(line, folder))
    verify = f"verify {tmp_path / 'm.onnx'} --checkpoint {tmp_path / 'm.quantized.pt'} --model own_nets:net"
    assert ok(warm_run(verify, folder)).strip().splitlines()[-1].startswith("VERIFIED ")


BAD = {
    f"{PTQ} missing.pt": ("missing.pt does not exist", "check the path"),
    f"{PTQ} missing.safetensors --model resnet8": ("missing.safetensors does not exist", "check the path"),
    f"{PTQ} float.pt": ("float.pt holds weights alone", "--model resnet20"),
    f"{PTQ} float.safetensors": ("float.safetensors holds weights alone", "--model resnet20"),
    f"{PTQ} text.pt --model resnet8": ("text.pt is refused: it is damaged",),
    f"{PTQ} nan.pt --model resnet8": ("NaN or infinite values in conv1.weight",),
    f"{PTQ} float.pt --model resnet20": ("float.pt does not fit resnet20",),
    f"{PTQ} float.pt --model resnt8": ("unknown model 'resnt8'", "did you mean 'resnet8'?"),
    f"{PTQ} float.pt --model resnet8 --model-arg depth=3": ("takes no argument 'depth'",),
    f"{PTQ} factory.pt": ("--model payload:net", "name it again"),
    f"{PTQ} quantized.pt": ("quantized.pt is quantized already (w8a8)", "leave --calibrate out"),
    f"{PTQ} quantized.pt --model resnet8": ("quantized.pt is quantized already (w8a8)", "leave --calibrate out"),
    f"{PTQ} own.pt --output own.pt": ("is the checkpoint itself", "another --output"),
    f"{PTQ} m.quantized.pt --output m.onnx": ("would be replaced", "another --output"),
    f"{PTQ} own.pt --output folder.onnx": ("cannot write folder.onnx: it is a folder",),
    f"{PTQ} own.pt --output text.pt/m.onnx": ("cannot write text.pt/m.quantized.pt",),
    f"{PTQ} own.pt --calibrate-images 0": ("--calibrate-images",),
    f"{PTQ} own.pt --calibrate-method msr": ("did you mean 'mse'?",),
    f"{PTQ} own.pt --bits-for lyer3.*=w4a4": ("'lyer3.*' matches no layer",),
    f"{PTQ} own.pt --first-last-bits 9": ("first_last_bits is 9", "at most 8"),
    f"{PTQ} own.pt --weights packd": ("did you mean 'packed'?",),
    "export --bits w9a9 --calibrate digits own.pt": ("out of range", "did you mean 'w8a8'?"),
    "export --calibrate digits own.pt": ("--calibrate quantizes weights", "--bits w8a8"),
    "export --bits w8a8 --calibrate digts own.pt": ("unknown data set 'digts'", "did you mean 'digits'?"),
    "export --bits w8a8 --calibrate colours:data own.pt": ("own.pt does not fit resnet8", "conv1.weight"),
    "export --bits w8a8 own.pt": ("holds a full-precision network",),
    "export quantized.pt --calibrate-images 5": ("--calibrate-images belongs to --calibrate",),
    "export quantized.pt --calibrate-method mse": ("--calibrate-method belongs to --calibrate",),
    "export quantized.pt --calibrate-batch-norm": ("--calibrate-batch-norm belongs to --calibrate",),
    "export quantized.pt --data-dir .": ("--data-dir belongs to --calibrate", "give --calibrate DATASET"),
    f"{PTQ} own.pt --max-drop -1": ("--max-drop",),
    f"{PTQ} own.pt --max-drop nan": ("nan",),
    "export quantized.pt --max-drop 1": ("--max-drop belongs to --calibrate",),
    "export quantized.pt --placement paper": ("--placement belongs to --calibrate",),
    "export quantized.pt --bits-for fc=w8a8": ("--bits-for belongs to --calibrate",),
}


@pytest.fixture(scope="module")
def material(floats: tuple[Path, float], warm_run: Any) -> Path:
    folder = floats[0]
    ok(warm_run(f"{PTQ} own.pt", folder))
    (folder / "own.quantized.pt").rename(folder / "quantized.pt")
    (folder / "own.onnx").unlink()
    (folder / "m.quantized.pt").write_bytes((folder / "own.pt").read_bytes())
    (folder / "folder.onnx").mkdir()
    (folder / "text.pt").write_text("These are no weights.\n")
    weights = torch.load(folder / "float.pt", weights_only=True)
    torch.save({**weights, "conv1.weight": weights["conv1.weight"] * float("nan")}, folder / "nan.pt")
    return folder


def listing(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in paths}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(material: Path, warm_run: Any, line: str) -> None:
    before = listing(material)
    done = warm_run(line, material)
    assert (done.code, done.out) == (2, "")
    *remarks, error = done.err.splitlines()
    assert error.startswith("Error: ") and not any("Error" in remark or "Traceback" in remark for remark in remarks)
    for text in BAD[line]:
        assert text in error
    assert listing(material) == before


def test_a_full_disk_leaves_neither_file(floats: tuple[Path, float], warm_run: Any) -> None:
    folder = floats[0]
    before = listing(folder)
    done = warm_run(f"{PTQ} --calibrate-images 32 own.pt --output new/m.onnx", folder, largest_file=20_000)
    assert done.code == 2 and "cannot write new/m.quantized.pt" in done.err.splitlines()[-1]
    assert listing(folder) == before


def test_a_failed_export_gives_the_old_checkpoint_back(material: Path, warm_run: Any) -> None:
    old = material / "folder.quantized.pt"
    old.write_bytes(b"what was there")
    try:
        assert warm_run(f"{PTQ} own.pt --output folder.onnx", material).code == 2
        assert old.read_bytes() == b"what was there"
    finally:
        old.unlink()


def test_a_file_for_another_runtime_stands_beside_the_onnx_file(
    floats: tuple[Path, float], warm_run: Any, tmp_path: Path
) -> None:
    output = tmp_path / "m.ort"
    line = f"{PTQ} --model resnet8 float.pt --target ort-mobile --output {output}"
    said = ok(warm_run(line, floats[0])).strip()
    assert f"wrote {tmp_path / 'm.onnx'}" in said and f"wrote {output}" in said
    checkpoint = tmp_path / "m.quantized.pt"
    following = f"verify {output} --checkpoint {checkpoint} --dataset digits"
    assert said.splitlines()[-1] == f"next: qkd-deploy {following}"
    assert ok(warm_run(following, tmp_path)).strip().splitlines()[-1].startswith("VERIFIED")
