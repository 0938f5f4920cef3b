"""Files for LiteRT: what they say of themselves, and what is refused with a way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from deployment import noise
from torch import nn

from qkd_deploy import freeze, initialize, prepare
from qkd_deploy.errors import UserError
from qkd_deploy.export.targets.file import export_for
from qkd_deploy.export.targets.litert import TARGET
from qkd_deploy.export.targets.registry import target_named, target_of
from qkd_deploy.export.targets.target import Form
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.pixels.normalization import CENTERED

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'qkd-deploy[litert]'")


def prepared_of(*behind: nn.Module) -> PreparedModel:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), *behind, nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    images = noise(4, 3, 16, 16)
    prepared = prepare(network, "w4a4", (images[:1],), normalization="centered")
    initialize(prepared, images)
    return prepared


@pytest.fixture(scope="module")
def frozen() -> FrozenModel:
    return freeze(prepared_of())


def test_a_file_says_what_it_is_and_is_the_same_again(frozen: FrozenModel) -> None:
    content = TARGET.build(frozen, Form(), "abc=")
    assert content == TARGET.build(frozen, Form(), "abc=") == TARGET.meaning(content)
    assert TARGET.record(content) == "abc=" and content.count(b"abc=") == 1
    found = target_of(Path("model.tflite"), content)
    assert found is not None and found[0] is TARGET


@pytest.mark.parametrize("content", [b"", b"something else", b"\0\0\0\0TFL3", b"\xff" * 4 + b"TFL3" + b"\xff" * 60])
def test_other_and_damaged_files_have_no_record(content: bytes) -> None:
    assert TARGET.record(content) is None


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_export_runs_the_file_before_it_writes_it(kind: str, tmp_path: Path) -> None:
    entry = {"normalization": CENTERED.as_entry()}
    report = export_for(prepared_of(), tmp_path / "model.tflite", TARGET, input=kind, metadata=entry)
    assert (report.steps_off.differing, report.tolerance) == (0, 0)
    assert report.steps_off.compared and report.path.stat().st_size == report.size
    assert {kernel.name: kernel.count for kernel in report.kernels if kernel.integer}["CONV_2D"] == 2


def test_raw_pixels_give_what_floats_give(frozen: FrozenModel, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    floats, made = ((pixels.astype(np.float32) - 128) / 64).astype(np.float32), []
    for kind, given in (("uint8", pixels), ("float32", floats)):
        path = tmp_path / f"{kind}.tflite"
        path.write_bytes(TARGET.build(frozen, Form(input=kind), ""))
        made.append(TARGET.load(path, 1).run([given])[0])
    np.testing.assert_array_equal(*made)
    np.testing.assert_array_equal(made[0], frozen(torch.from_numpy(floats)).numpy())


def test_packed_weights_are_refused_and_the_way_out_works(frozen: FrozenModel) -> None:
    with pytest.raises(UserError, match="use --weights int8"):
        TARGET.build(frozen, Form(weights="packed"), "")
    assert TARGET.build(frozen, Form(weights="int8"), "")


def test_what_has_no_exact_form_is_named_and_another_target_takes_it() -> None:
    with_transposed = freeze(prepared_of(nn.ConvTranspose2d(8, 8, 2, 2)))
    with pytest.raises(UserError, match=r"^2 cannot be written for LiteRT .it is in float.; .* choose another target"):
        TARGET.build(with_transposed, Form(), "")
    assert target_named("ort-mobile").build(with_transposed, Form(), "")
    assert TARGET.build(freeze(prepared_of(nn.Upsample(scale_factor=2.0))), Form(), "")  # replaced
