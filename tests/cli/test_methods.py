"""All six methods from the command line: trained, exported, verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qkd_deploy.distill import METHODS

NETWORK = "--model plaincnn --threads 1 --batch-size 64"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, warm_run) -> Path:  # type: ignore[no-untyped-def]
    """A folder with full-precision weights in float.pt."""
    folder = tmp_path_factory.mktemp("methods")
    done = warm_run(f"train {NETWORK} --method qat --epochs 1 --pretrain-epochs 8 --out start", folder)
    assert done.code == 0, done.err
    (folder / "float.pt").write_bytes((folder / "start/checkpoints/student-float.pt").read_bytes())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "bits"), [*((name, "w4a4") for name in METHODS), ("gslr", "w2a8"), ("gslr", "w2a32")]
)
def test_every_method_deploys(start: Path, warm_run, method: str, bits: str) -> None:  # type: ignore[no-untyped-def]
    name = f"{method}-{bits}"
    teacher = "" if method == "qat" else "--teacher plaincnn:float.pt"
    options = f"--method {method} --bits {bits} --init float.pt {teacher} --epochs 6 --delta-every 3"
    done = warm_run(f"train {NETWORK} {options} --out {name} --json", start)
    assert done.code == 0, done.err
    accuracy = json.loads(done.out)["accuracy"]
    assert accuracy > 90
    done = warm_run(f"export --bits {bits} {name}/model.pt", start)
    assert done.code == 0, done.err
    strict = "" if bits.endswith("a32") else "--require-integer"
    done = warm_run(f"verify {name}/model.onnx --dataset digits --checkpoint {name}/model.pt {strict} --json -", start)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["verdict"].startswith("VERIFIED")
    assert report["accuracy"]["runtime"] == pytest.approx(accuracy, abs=0 if strict else 0.3)


@pytest.mark.slow
def test_the_ablations_of_qkd(start: Path, warm_run) -> None:  # type: ignore[no-untyped-def]
    for phases in ("self-study", "self-study,tutor", "co-study", "co-study,tutor"):
        name = phases.replace(",", "+")
        options = f"--phases {phases} --epochs 2 --init float.pt --teacher plaincnn:float.pt --evaluate-limit 50"
        done = warm_run(f"train {NETWORK} {options} --out {name}", start)
        assert done.code == 0, done.err
        lines = [json.loads(line) for line in (start / name / "metrics.jsonl").read_text().splitlines()]
        assert len(lines) == 2 and {line["phase"] for line in lines} == set(phases.split(","))
        assert (start / name / "teacher.pt").exists() is (phases != "self-study")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--method sqakd --teacher resnet20", "sqakd distils between equal networks"),
        ("--method sqakdd", "did you mean 'sqakd'"),
        ("--phases tutr", "did you mean 'tutor'"),
        ("--method kd --phases tutor", "kd has no phase 'tutor'"),
        ("--delta big", "give a number that is not negative, or hessian"),
        ("--delta=-1", "give a number that is not negative, or hessian"),
        ("--quantizer lsqq", "did you mean 'lsq'"),
        ("--soft-loss-decay linea", "did you mean 'linear'"),
        ("--optimizer adm", "did you mean 'adam"),
        ("--accumulate 0", "at least 1"),
        ("--ema 1", "at most"),
        ("--method qfd --feature-point nowhere --init float.pt --teacher plaincnn:float.pt", "no module 'nowhere'"),
        ("--model-arg depth", "write KEY=VALUE"),
        ("--model-arg depth=3", "'depth'"),
    ],
)
def test_mistakes(start: Path, warm_run, options: str, message: str) -> None:  # type: ignore[no-untyped-def]
    done = warm_run(f"train {NETWORK} --out bad {options}", start)
    assert done.code == 2
    assert message in done.err.splitlines()[-1]
    assert "Traceback" not in done.err and done.out == ""
