"""Files that leave height and width open: the same codes as the frozen model at every size, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from deployment import Deployed, assert_same_codes, emitted, noise
from onnx import numpy_helper
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import read_metadata, write_metadata
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.runtime import RuntimeFault

Behind = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """Two convolutions, of which one may have a stride, a function behind them, and a layer that reads its codes."""

    def __init__(self, behind: Behind, last: nn.Module, stride: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, stride, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.behind, self.last = behind, last

    def forward(self, x: Tensor) -> Any:
        return self.last(self.behind(self.second(F.relu(self.first(x)))))


def deployed(behind: Behind, last: nn.Module, stride: int = 1, bits: str = "w8a8", **options: Any) -> Deployed:
    net, images = Net(behind, last, stride).eval(), noise(2, 3, 16, 16)
    prepared = qkd.prepare(net, bits, (images,))
    qkd.initialize(prepared, images)
    return emitted(prepared, qkd.freeze(prepared.eval()), dynamic_size=True, **options)


def multiple_of(made: Deployed) -> int | None:
    return read_metadata(made.model).size_multiple


class UNet(nn.Module):
    """Down and up again, to the size of another tensor, past a concatenation that only even sizes fit."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.join = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(16, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        small = F.relu(self.down(x))
        return F.relu(self.join(torch.cat([F.interpolate(self.up(small), size=x.shape[2:]), x], 1)))


def moved(y: Tensor) -> Tensor:
    """Crops, flips, rolls and shuffles, all of which hold sizes."""
    y = F.pixel_shuffle(y[:, :, 2:-1, 1:-2].flip(2).roll((3, -2), (2, 3)), 2)
    return F.channel_shuffle(torch.cat([y, y.flip(3)], 1), 2)


ANY = (16, 16), (24, 32), (17, 19), (9, 40)
EVEN = (16, 16), (24, 32), (10, 18), (8, 40)
FOURS = (16, 16), (24, 32), (8, 20), (12, 40)
WORKING: dict[str, tuple[tuple[Behind, nn.Module, int], int, tuple[tuple[int, int], ...]]] = {
    "movements": ((moved, nn.Conv2d(4, 5, 3), 1), 1, ANY),
    "unshuffle": ((lambda y: F.pixel_unshuffle(y, 2), nn.Conv2d(32, 5, 1), 1), 2, EVEN),
    "second half behind a stride": ((lambda y: y[..., y.shape[3] // 2 :], nn.Conv2d(8, 5, 1), 2), 4, FOURS),
    "u-net": ((UNet(), nn.Conv2d(8, 5, 1), 1), 2, EVEN),
    "flatten and back": ((lambda y: (y.flatten(2) * 0.5).reshape(y.shape), nn.Conv2d(8, 5, 1), 2), 2, EVEN),
    "tokens": ((lambda y: y.flatten(2).transpose(1, 2), nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 5)), 1), 1, ANY),
    "means": ((lambda y: torch.cat([y.mean((2, 3)), y.amax((2, 3))], 1), nn.Linear(16, 5), 2), 1, ANY),
}


@pytest.mark.parametrize("name", WORKING)
def test_one_file_gives_the_codes_of_every_size(name: str) -> None:
    given, multiple, sizes = WORKING[name]
    made = deployed(*given)
    assert multiple_of(made) == multiple
    for height, width in sizes:
        assert_same_codes(made, (noise(2, 3, height, width, seed=1),))


@pytest.mark.parametrize(("bits", "options"), [("w4a4", {"weights": "packed"}), ("w8a8", {"input": "uint8"})])
def test_packed_weights_and_raw_pixels(bits: str, options: dict[str, str]) -> None:
    net = Net(lambda y: F.pixel_unshuffle(y, 2), nn.Conv2d(32, 5, 1)).eval()
    pixels = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    prepared = qkd.prepare(net, bits, ((pixels - 128) / 64,), normalization="centered")
    qkd.initialize(prepared, (pixels - 128) / 64)
    frozen = qkd.freeze(prepared.eval())
    model, _ = build_model(prepared, dynamic_size=True, **options)  # type: ignore[arg-type]
    images = torch.randint(0, 256, (2, 3, 24, 12), generator=torch.Generator().manual_seed(1))
    floats = ((images - 128) / 64).float()
    feed = images.to(torch.uint8).numpy() if options.get("input") == "uint8" else floats.numpy()
    (output,) = OnnxRuntime().session(model).run({"x": feed}).values()
    np.testing.assert_array_equal(output, frozen(floats).numpy())


def test_the_runtime_names_the_multiple_that_images_miss() -> None:
    made = deployed(*WORKING["second half behind a stride"][0])
    with pytest.raises(RuntimeFault, match="has_multiples_of_4"):
        OnnxRuntime().session(made.model).run({"x": noise(1, 3, 16, 18).numpy()})


@pytest.mark.parametrize(
    ("behind", "last", "named"),
    [
        (
            lambda y: F.adaptive_avg_pool2d(y, 4),
            nn.Conv2d(8, 5, 1),
            "adaptive_avg_pool2d is computed by other operators",
        ),
        (lambda y: y.sum((2, 3)), nn.Linear(8, 5), "sum reads other constants for images"),
        (lambda y: y.flatten(2) @ y.flatten(2).mT, nn.Linear(8, 5), "matmul sums as many products as an image has"),
        (lambda y: y[:, :, : 256 // y.shape[2]], nn.Conv2d(8, 5, 1), "getitem "),
        (lambda y: y.flatten(1), nn.Linear(2048, 5), r"last \(Linear\)"),
    ],
)
def test_what_cannot_stay_open_is_refused_by_name(behind: Behind, last: nn.Module, named: str) -> None:
    with pytest.raises(UserError, match=f"height and width cannot stay open: .*{named}.*dynamic_size=False"):
        deployed(behind, last)


def test_other_inputs_than_one_image_are_refused() -> None:
    prepared = qkd.prepare(nn.Linear(4, 2), "w8a8", (noise(2, 4),))
    qkd.initialize(prepared, noise(2, 4))
    with pytest.raises(UserError, match=r"one input is images.*dynamic_size=False"):
        build_model(prepared, dynamic_size=True)


@pytest.fixture(scope="module")
def unshuffled() -> Deployed:
    torch.manual_seed(0)
    return deployed(*WORKING["unshuffle"][0])


def test_verify_compares_at_more_sizes(unshuffled: Deployed, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(unshuffled.model.SerializeToString())
    options: dict[str, Any] = {"frozen": unshuffled.frozen, "prepared": unshuffled.prepared, "threads": (1,)}
    report = qkd.verify_onnx(file, **options, require_integer=True)
    (codes,) = [level for level in report.levels if level.name == "codes"]
    assert report.passed and report.differing_codes == 0 and "and 2 other sizes" in codes.sentences[0]
    pictures = qkd.verify_onnx(file, inputs=noise(2, 3, 40, 26).numpy(), **options)
    assert pictures.passed


def test_a_changed_factor_is_found_without_digests_too(unshuffled: Deployed, tmp_path: Path) -> None:
    """One that leaves the examples' size as it is: only other sizes tell."""
    model = onnx.ModelProto()
    model.CopyFrom(unshuffled.model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    name = next(name for name in constants if name.endswith("split.shape.by_width.factor"))
    factor = numpy_helper.to_array(constants[name]).copy()
    fixed = numpy_helper.to_array(constants[name.replace("by_width.factor", "fixed")]).copy()
    (place,) = np.flatnonzero(factor)
    factor[place] -= 1
    fixed[place] += 8  # of 16 pixels
    for key, array in ((name, factor), (name.replace("by_width.factor", "fixed"), fixed)):
        constants[key].CopyFrom(numpy_helper.from_array(array, key))
    write_metadata(model, read_metadata(model))
    file = tmp_path / "m.onnx"
    file.write_bytes(model.SerializeToString(deterministic=True))
    with pytest.raises(UserError, match=r"cannot run the model on these inputs.*pixel_unshuffle"):
        qkd.verify_onnx(file, threads=(1,))


def test_a_damaged_multiple_is_named(unshuffled: Deployed) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(unshuffled.model)
    write_metadata(model, replace(read_metadata(model), size_multiple=10**9))
    with pytest.raises(UserError, match="size_multiple is damaged"):
        read_metadata(model)
