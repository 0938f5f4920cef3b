"""Files for older runtimes: the same codes in an older operator set, or a refusal by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy import export_onnx, initialize, prepare, verify_onnx
from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import read_metadata
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.export.settings import OPSETS
from qkd_deploy.graph.prepared import PreparedModel


class Largest(nn.Module):
    """A reduction, whose axes were an attribute up to operator set 17."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).amax((2, 3))).softmax(1)  # type: ignore[no-any-return]


class Smaller(nn.Module):
    """A resize that averages, which ONNX knows since operator set 18."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=(5, 5), mode="bilinear", antialias=True)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "a reduction": Largest,
    "padding, upsampling, tables": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GELU(), nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(8, 4, 3, 2)
    ),
    "a smooth resize": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 4, 1)
    ),
}
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def prepared_of(network: nn.Module) -> PreparedModel:
    torch.manual_seed(0)
    prepared = prepare(network.eval(), "w8a8", (IMAGES,))
    initialize(prepared, IMAGES)
    return prepared.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_older_sets_give_the_same_codes(name: str, tmp_path: Path) -> None:
    prepared, path = prepared_of(NETWORKS[name]()), tmp_path / "m.onnx"
    report = export_onnx(prepared, path, opset=13)
    model = onnx.load(path)
    assert (model.opset_import[0].version, model.ir_version, report.requires) == (13, 7, "1.15.1")
    assert read_metadata(model).requires_onnxruntime == "1.15.1"
    found = verify_onnx(path, inputs=IMAGES.numpy(), threads=(1,))
    assert found.passed, found.verdict


def test_the_newest_set_is_the_one_without_the_option() -> None:
    prepared = prepared_of(Largest())
    assert build_model(prepared)[0] == build_model(prepared, opset=OPSETS[-1])[0]


def test_newer_operators_are_refused_by_name_and_the_way_out_works() -> None:
    """AveragePool has other rules for its last windows from set 19 on."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), nn.Conv2d(8, 4, 1)
    )
    prepared = prepared_of(network)
    with pytest.raises(UserError, match=r"AveragePool of operator set 19, which 17 does not have; use --opset 19"):
        build_model(prepared, opset=17)
    assert build_model(prepared, opset=19)[0].opset_import[0].version == 19


@pytest.mark.parametrize(("opset", "weights"), [(12, "int8"), (22, "int8"), (17, "packed")])
def test_what_is_not_written_is_refused(opset: int, weights: str) -> None:
    with pytest.raises(UserError, match="choose 13 to 21 with int8 weights, or leave out --opset"):
        build_model(prepared_of(Largest()), opset=opset, weights=weights)
    assert build_model(prepared_of(Largest()), opset=13)[0].opset_import[0].version == 13
    assert build_model(prepared_of(Largest()), weights=weights)[0].opset_import[0].version == 21


def test_an_option_that_an_older_set_lacks_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), Smaller(), nn.Conv2d(8, 4, 1))
    with pytest.raises(
        UserError, match=r"operator set 17 has no place for this graph \(.*antialias.*leave out --opset"
    ):
        build_model(prepared_of(network), opset=17)
    assert build_model(prepared_of(network))[0].opset_import[0].version == 21
