"""Settings far outside of what they count are refused in one line, at once, and leave nothing behind."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qkd_deploy.errors import UserError
from qkd_deploy.settings import declarations
from qkd_deploy.training.config import TrainConfig

HUGE = "9" * 30
DEEP = "[" * 10_000 + "]" * 10_000

LINES = {
    "train --seed 9223372036854775808": "seed is 9223372036854775808; it must be a number at least 0",
    f"train --seed {HUGE}": "it must be a number at least 0 and at most 4294967295",
    "train --threads 1000000": "threads is 1000000; it must be a number at least 0 and at most 512",
    "train --workers 1000000": "workers is 1000000; it must be a number at least 0 and at most 256",
    "train --epochs 99999999999999999999": "each of at most 100000",
    f"train --epochs 1,1,{HUGE}": "each of at most 100000",
    f"train --epochs {','.join(['1'] * 1000)}": "give one number, or one per phase",
    f"train --pretrain-epochs {HUGE}": "at most 100000",
    f"train --batch-size {HUGE}": "at most 2147483647",
    f"train --image-size {HUGE}": "at most 16384",
    "train --lr 1e30": "lr is 1e+30; it must be a number above 0 and at most 1000",
    "train --pretrain-lr 1e30": "pretrain_lr is 1e+30",
    "train --lr 1e400": "lr is inf",
    "train --device meta": "the device 'meta' is not available here; use --device auto or cpu",
    "train --device cuda:99": "is not available here",
    "train --device xla": "is not available here",
    "train --config deep.toml": "the configuration deep.toml is nested too deep",
    "train --config digits.toml": "digits.toml is not a TOML file",
    "train --config zeros.toml": "zeros.toml is not a TOML file",
    "train --config /dev/zero": "larger than a megabyte",
    "train --config nul.toml": "data_dir is 'a\\x00b'; leave out the zero byte",
    "train --config arguments.toml": "model_args: a is {",
    "train --model-arg deep=[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]": "at most 16 within each other",
    f"train --model-arg deep={DEEP}": "is no value",
    "sweep deep.toml": "the sweep deep.toml is nested too deep",
    "sweep epochs.toml": "each of at most 100000",
    "sweep epochs.toml --jobs 1000000": "--jobs",
    "bench model.onnx --threads 1000000": "--threads",
    f"bench model.onnx --batch {HUGE}": "--batch",
    f"verify model.onnx --dataset digits --limit {HUGE}": "--limit",
    f"export --calibrate digits --calibrate-images {HUGE} model.pt": "--calibrate-images",
    "train --dataset one.npz": "one.npz has 1 training image; training needs 2 or more",
    "train --dataset unlabelled.npz --method qat": "--method qat has no teacher to agree with; give them labels",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("extremes")
    texts = {
        "deep.toml": f"lr = {DEEP}\n",
        "digits.toml": f"seed = {'9' * 5000}\n",
        "zeros.toml": "\0" * 1000,
        "nul.toml": 'data_dir = "a\\u0000b"\n',
        "arguments.toml": f"[model_args.{'.'.join('a' * 200)}]\nb = 1\n",
        "epochs.toml": f"[grid]\nepochs = [1, {HUGE}]\n",
    }
    for name, text in texts.items():
        (made / name).write_text(text)
    images = np.zeros((8, 8, 8, 1), np.uint8)
    labels = np.arange(8) % 2
    np.savez(made / "one.npz", x_train=images[:1], y_train=labels[:1], x_test=images, y_test=labels)
    np.savez(made / "unlabelled.npz", x_train=images, y_train=labels, x_test=images)
    return made


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:60])
def test_one_line_and_nothing_left(folder: Path, warm_run: Any, line: str) -> None:
    before = [set(folder.iterdir()), locks()]
    done = warm_run(line, folder)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"Error: [^\n]{1,2100}\n", done.err), done.err
    assert LINES[line] in done.err
    assert [set(folder.iterdir()), locks()] == before


def locks() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("qkd-deploy-*.lock"))


def test_a_download_that_fails_leaves_nothing(tmp_path: Path, warm_run: Any) -> None:
    before = locks()
    done = warm_run("train --dataset cifar10 --data-dir new/data", tmp_path)
    assert done.code == 2
    assert list(tmp_path.iterdir()) == [] and locks() == before


@pytest.mark.parametrize("name", [item.name for item in declarations(TrainConfig) if item.type is int])
@pytest.mark.parametrize("value", [10**30, -(10**30)])
def test_every_whole_number_has_bounds(name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{name} is {value}; it must be a number"):
        TrainConfig(**{name: value})
