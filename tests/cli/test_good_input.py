"""The chain of commands as a user runs it: real processes, real files, exit code 0 - and 1 where a check fails."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from qkd_deploy.checkpoints.torch_file import save_tensors
from qkd_deploy.data import load_dataset


def ok(outcome: Any) -> str:
    assert outcome.code == 0, outcome.err
    assert "Traceback" not in outcome.err
    return str(outcome.out)


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, run: Any) -> dict[str, Any]:
    """Train, export and verify once, as the README says."""
    folder = tmp_path_factory.mktemp("chain")
    train = "train --model resnet8 --teacher resnet8 --epochs 3 --pretrain-epochs 3 --teacher-pretrain-epochs 3"
    done = {"train": run(f"{train} --bits-for layer3.*=w8a8 --out runs/a --json", folder)}
    done["export"] = run("export --bits w4a4 runs/a/model.pt", folder)
    verify = "verify runs/a/model.onnx --dataset digits --checkpoint runs/a/model.pt --require-integer"
    done["verify"] = run(f"{verify} --tolerance 1 --json report.json", folder)
    return {**done, "folder": folder}


def test_train_leaves_its_files_and_reports_the_integer_accuracy(chain: Any) -> None:
    result = json.loads(ok(chain["train"]))
    folder = chain["folder"]
    assert result["images"] == len(load_dataset("digits").test)
    assert 50 < result["accuracy"] <= 100
    assert result["settings"]["bits_for"] == {"layer3.*": "w8a8"}
    assert (folder / result["checkpoint"]).is_file() and (folder / result["teacher"]).is_file()
    assert tomllib.loads((folder / "runs/a/config.toml").read_text())["epochs"] == result["settings"]["epochs"]
    assert "epoch 3/3" in chain["train"].err  # progress goes to stderr


def test_export_prints_a_row_per_layer_and_stores_the_origin(chain: Any) -> None:
    out, folder = ok(chain["export"]), chain["folder"]
    stored = {
        p.key.removeprefix("qkd_deploy."): p.value for p in onnx.load(folder / "runs/a/model.onnx").metadata_props
    }
    layers = json.loads(stored["layers"])
    assert len(layers) == 10  # resnet8 has 7 convolutions, 2 projections and a classifier
    for layer in layers:
        assert layer["name"] in out
        assert layer["kernel"] in out
    assert last_line(out).startswith("wrote runs/a/model.onnx (w4a4, ")
    accuracy = json.loads(chain["train"].out)["accuracy"]
    dataset = load_dataset("digits")
    described = {"dataset": "digits", "fingerprint": dataset.fingerprint, "images": len(dataset.test)}
    assert json.loads(stored["accuracy"]) == {**described, "integer": accuracy}
    assert json.loads(stored["normalization"]) == {"mean": 128, "std": 64}
    assert json.loads(stored["classes"]) == list(dataset.classes)
    checkpoint = (folder / "runs/a/model.pt").read_bytes()
    assert stored["checkpoint_sha256"] == hashlib.sha256(checkpoint).hexdigest()
    assert (stored["bits"], stored["placement"]) == ("w4a4", "integer")


def test_verify_ends_with_the_verdict_and_writes_json(chain: Any) -> None:
    assert last_line(ok(chain["verify"])).startswith("VERIFIED ")
    report = json.loads((chain["folder"] / "report.json").read_text())
    assert report["passed"] is True
    assert (report["proven"], report["checkpoint"]) == ("VERIFIED", "runs/a/model.pt")
    assert report["differing_codes"] == 0 and report["first_difference"] is None and report["float_ops"] == []
    reported = json.loads(chain["train"].out)["accuracy"]
    assert report["accuracy"]["frozen"] == report["accuracy"]["runtime"] == pytest.approx(reported)
    assert report["images"] == len(load_dataset("digits").test)


def test_verify_of_a_changed_file_is_exit_code_1(trained: Path, run: Any, tmp_path: Path) -> None:
    model = onnx.load(trained / "model.onnx")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "features.4.weight")
    codes = numpy_helper.to_array(weight).copy()
    codes.flat[7] += 8
    weight.CopyFrom(numpy_helper.from_array(codes, weight.name))
    onnx.save(model, tmp_path / "changed.onnx")
    verify = "verify changed.onnx --dataset digits --limit 20 --json -"
    done = run(f"{verify} --checkpoint {trained / 'model.pt'}", tmp_path)
    assert done.code == 1
    assert json.loads(done.out)["passed"] is False  # with --json - stdout holds the JSON alone
    assert last_line(done.err).startswith("FAILED ")
    assert "features.4" in last_line(done.err)


def test_verify_with_arrays_instead_of_a_data_set(trained: Path, warm_run: Any, tmp_path: Path) -> None:
    images = load_dataset("digits").test.images[:5].numpy()
    np.save(tmp_path / "x.npy", images)
    np.savez(tmp_path / "x.npz", x=images)
    for inputs in ("x.npy", "x.npz"):
        line = f"verify {trained / 'model.onnx'} --inputs {inputs} --checkpoint {trained / 'model.pt'}"
        assert last_line(ok(warm_run(line, tmp_path))).startswith("VERIFIED ")


def test_verify_by_itself_and_on_the_training_split(trained: Path, warm_run: Any) -> None:
    told = last_line(ok(warm_run("verify model.onnx", trained)))
    assert told.startswith("CONSISTENT: the file agrees with itself (no checkpoint given): model.onnx: ")
    args = "verify model.onnx --dataset digits --split train --limit 30"
    assert " on 30 images" in last_line(ok(warm_run(args, trained)))


@pytest.mark.parametrize("options", ["", "--weights packed", "--input uint8", "--weights packed --input uint8"])
def test_export_options_survive_verification(trained: Path, warm_run: Any, tmp_path: Path, options: str) -> None:
    checkpoint = trained / "model.pt"
    done = warm_run(f"export {checkpoint} {options} --output new/m.onnx --json", tmp_path)
    report = json.loads(ok(done))
    assert report["requires_onnxruntime"] == ("1.24" if "packed" in options else "1.20.1")
    assert report["weights"] == ("packed" if "packed" in options else "int8")
    line = f"verify new/m.onnx --dataset digits --limit 40 --require-integer --checkpoint {checkpoint}"
    assert last_line(ok(warm_run(line, tmp_path))).startswith("VERIFIED ")


def test_inspect_an_exported_file(trained: Path, run: Any) -> None:
    out = ok(run("inspect model.onnx", trained))
    for shown in ("features.8", "QLinearConv", "QGemm", "everything computes in integers", "integer accuracy"):
        assert shown in out


def test_inspect_agrees_about_checkpoint_and_file(trained: Path, warm_run: Any) -> None:
    checkpoint = json.loads(ok(warm_run("inspect model.pt --json", trained)))
    file = json.loads(ok(warm_run("inspect model.onnx --json", trained)))
    assert (checkpoint["kind"], file["kind"]) == ("checkpoint", "onnx")
    assert checkpoint["origin"]["model"] == "plaincnn"
    assert checkpoint["tensors"] == file["tensors"]
    assert all(layer["built"] == [layer["kernel"]] for layer in file["layers"])
    assert [{**layer, "built": None} for layer in file["layers"]] == checkpoint["layers"]
    assert [layer["weight_bits"] for layer in file["layers"]] == [8, 4, 4, 8]
    assert all(layer["codes_used"] <= 15 for layer in file["layers"][1:3])


def test_inspect_names_what_stays_float_and_why(warm_run: Any, tmp_path: Path) -> None:
    train = "train --model plaincnn --method qat --epochs 1 --pretrain-epochs 1 --placement paper --out paper"
    ok(warm_run(train, tmp_path))
    ok(warm_run("export paper/model.pt", tmp_path))
    for file in ("paper/model.pt", "paper/model.onnx"):
        floats = json.loads(ok(warm_run(f"inspect {file} --json", tmp_path)))["floats"]
        assert floats and all(part["reason"] for part in floats)
    done = warm_run("verify paper/model.onnx --dataset digits --limit 10 --require-integer", tmp_path)
    assert done.code == 1
    assert last_line(done.out).startswith("FAILED ")


def test_bench_against_fp32(trained: Path, run: Any) -> None:
    bench = "bench model.onnx --against fp32 --checkpoint run/model.pt --rounds 3 --batch 2 --json"
    result = json.loads(ok(run(bench, trained)))
    assert set(result["models"]) == {"integer", "fp32"}
    for measured in result["models"].values():
        assert measured["latency"] > 0 and measured["file_bytes"] > 0
        assert measured["throughput"] == pytest.approx(2 / measured["latency"])
    assert result["ratios"]["fp32"]["file_bytes"] > 2.5
    out = ok(run("bench model.onnx --rounds 1", trained))
    assert "images/s" in out and "against" not in out


def test_bench_against_another_file(trained: Path, run: Any) -> None:
    assert "against model.onnx: " in ok(run("bench model.onnx --against model.onnx --rounds 1", trained))


def test_a_run_is_repeated_from_its_settings_and_options_override_them(trained: Path, warm_run: Any) -> None:
    again = "train --config run/config.toml --out again --json"
    ok(warm_run(again, trained))
    one, two = (torch.load(trained / name / "model.pt", weights_only=True) for name in ("run", "again"))
    assert all(torch.equal(value, two["state_dict"][name]) for name, value in one["state_dict"].items())
    done = warm_run("train --config run/config.toml --bits w8a8 --seed 5 --out other --json", trained)
    settings = json.loads(ok(done))["settings"]
    assert (settings["bits"], settings["seed"], settings["model"]) == ("w8a8", 5, "plaincnn")


def test_resume_of_a_finished_run_needs_only_its_folder(trained: Path, warm_run: Any) -> None:
    before = (trained / "run" / "metrics.jsonl").read_text()
    out = ok(warm_run("train --resume --out run", trained))
    assert "integer accuracy" in out
    assert (trained / "run" / "metrics.jsonl").read_text() == before


def test_own_network_is_imported_where_the_user_names_it(warm_run: Any, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, in_channels):\n"
        "    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 8, 3), nn.ReLU(), *head)\n"
    )
    train = "train --model own:net --method qat --epochs 1 --pretrain-epochs 1"
    ok(warm_run(train, tmp_path))
    folder = "runs/digits-own-net-qat-w4a4"  # the default
    ok(warm_run(f"export {folder}/model.pt --model own:net --output m.onnx", tmp_path))
    verify = f"verify m.onnx --checkpoint {folder}/model.pt --model own:net"
    assert last_line(ok(warm_run(verify, tmp_path))).startswith("VERIFIED ")
    ok(warm_run(f"inspect {folder}/model.pt --model own:net", tmp_path))


def test_teacher_weights_may_follow_its_name(trained: Path, warm_run: Any) -> None:
    train = "train --model plaincnn --method kd --epochs 1 --pretrain-epochs 1 --out kd --json"
    done = warm_run(f"{train} --teacher plaincnn:run/checkpoints/student-float.pt", trained)
    settings = json.loads(ok(done))["settings"]
    assert (settings["teacher"], settings["teacher_checkpoint"]) == ("plaincnn", "run/checkpoints/student-float.pt")
    assert "pretrain-teacher" not in done.err


def test_the_table_of_an_export_says_how_far_8_bit_weights_reach(chain: Any) -> None:
    assert "8-bit weights stay within 63, so that sums of pairs saturate on no CPU\n" in ok(chain["export"])


def test_scales_far_from_their_weights_are_named_by_export_and_verify(chain: Any, run: Any) -> None:
    folder = chain["folder"]
    content = torch.load(folder / "runs/a/model.pt", weights_only=True)
    content["state_dict"]["weights.layer1/0/conv1.step.start"] *= 1e3
    save_tensors(folder / "far.pt", content)
    for line in (
        "export far.pt",
        "verify far.onnx --dataset digits --checkpoint far.pt --tolerance 100 --limit 64",
    ):
        done = run(line, folder)
        named = [text for text in done.err.splitlines() if text.startswith("Warning: ")]
        assert len(named) == 1 and "the scale of layer1.0.conv1.weight is " in named[0], done.err
        assert " times too wide for its weights; calibrate or initialize after" in named[0]
        assert "Traceback" not in done.err
