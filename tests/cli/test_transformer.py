"""A vision transformer from the command line: AdamW before and after, export, VERIFIED."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SIZE = ["image_size=8", "patch_size=2", "width=48", "depth=2", "heads=3"]
MODEL = "--model vit_tiny " + " ".join(f"--model-arg {argument}" for argument in SIZE)
ADAMW = "--pretrain-optimizer adamw --pretrain-lr 3e-3 --optimizer adamw --lr 1e-3"


@pytest.mark.slow
def test_a_transformer_learns_and_deploys(tmp_path: Path, warm_run) -> None:  # type: ignore[no-untyped-def]
    epochs = "--epochs 4 --pretrain-epochs 25 --batch-size 64"
    done = warm_run(f"train {MODEL} {ADAMW} --method qat --bits w4a8 {epochs} --threads 1 --out run --json", tmp_path)
    assert done.code == 0, done.err
    assert json.loads(done.out)["accuracy"] > 65
    assert warm_run("export --bits w4a8 run/model.pt", tmp_path).code == 0
    done = warm_run("verify run/model.onnx --dataset digits --checkpoint run/model.pt", tmp_path)
    assert done.code == 0 and "VERIFIED" in done.out, done.out + done.err


def test_an_unknown_optimizer_of_pre_training_is_refused(tmp_path: Path, warm_run) -> None:  # type: ignore[no-untyped-def]
    done = warm_run("train --pretrain-optimizer lion --out run", tmp_path)
    assert done.code == 2 and "sgd" in done.err and not (tmp_path / "run").exists()
