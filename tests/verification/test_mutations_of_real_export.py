"""Bar of the product: any single change of a really trained and exported file is found and named by ``verify``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from mutations import MUTATIONS, Mutation, copy_of, remove_digests

import qkd_deploy
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.training.config import make_config
from qkd_deploy.training.monitoring.progress import NoProgress
from qkd_deploy.training.run import train
from qkd_deploy.verification.checks.identity import identity_level
from qkd_deploy.verification.model_under_test import ModelUnderTest
from qkd_deploy.workflows.export import export_checkpoint, load_trained

COMMAND = str(Path(sys.executable).with_name("qkd-deploy"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short W4A4 run on digits, with its exported file."""
    folder = tmp_path_factory.mktemp("run") / "run"
    config = make_config({"method": "qat", "epochs": 2, "pretrain_epochs": 1, "threads": 1})
    train(config, folder, progress=NoProgress())
    export_checkpoint(folder / "model.pt", folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> onnx.ModelProto:
    return onnx.load(run / "model.onnx")


@pytest.fixture(scope="module")
def expected(run: Path) -> onnx.ModelProto:
    return load_trained(run / "model.pt").build().model


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_every_change_is_named_with_and_without_checkpoint(
    mutate: Mutation, exported: onnx.ModelProto, expected: onnx.ModelProto
) -> None:
    """Twenty-one changes of each of ten kinds, a third each: digests, both, checkpoint without digests."""
    rng = np.random.default_rng(1)
    for attempt in range(21):
        model = copy_of(exported)
        name = mutate(model, rng)
        if attempt % 3 == 2:
            remove_digests(model)
        differences, level = identity_level(
            ModelUnderTest(model, read_metadata(model), None, None), expected if attempt % 3 else None
        )
        assert level.status == "failed"
        found = {difference.name: difference.module for difference in differences}
        assert found.get(name) == read_metadata(exported).module_of(name)


def test_the_untouched_file_has_no_differences(exported: onnx.ModelProto, expected: onnx.ModelProto) -> None:
    for fresh in (None, expected):
        differences, level = identity_level(ModelUnderTest(exported, read_metadata(exported), None, None), fresh)
        assert (differences, level.status) == ([], "passed")


@pytest.mark.parametrize("mutate", MUTATIONS[:5])
@pytest.mark.parametrize("digests", [True, False])
def test_the_command_returns_1_and_names_the_layer(
    mutate: Mutation, digests: bool, run: Path, exported: onnx.ModelProto, tmp_path: Path
) -> None:
    model = copy_of(exported)
    name = mutate(model, np.random.default_rng(2))
    if not digests:
        remove_digests(model)
    onnx.save(model, tmp_path / "changed.onnx")
    arguments = [COMMAND, "verify", str(tmp_path / "changed.onnx"), "--dataset", "digits", "--limit", "4"]
    arguments += [] if digests else ["--checkpoint", str(run / "model.pt")]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1].startswith("FAILED")
    assert name in done.stdout


def test_a_loaded_checkpoint_has_the_constants_of_the_exported_file(run: Path, exported: onnx.ModelProto) -> None:
    loaded, _ = build_model(qkd_deploy.load(run / "model.pt"))
    assert [t.SerializeToString() for t in loaded.graph.initializer] == [
        t.SerializeToString() for t in exported.graph.initializer
    ]
