"""Every kind of node in a file for OpenVINO: the codes of the outputs are those of the integer model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from deployment import noise
from litert_files import WIDTHS, frozen_of
from node_kinds import INTEGER, MAPS, MIXED, Attention, Rows, Small, Tokens
from torch import Tensor, nn

from qkd_deploy.export.targets.openvino import TARGET
from qkd_deploy.export.targets.target import Form
from qkd_deploy.graph.integer.model import FrozenModel

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'qkd-deploy[openvino]'")


def outputs_agree(frozen: FrozenModel, images: Tensor, folder: Path) -> None:
    """Compare a file's outputs with the integer model's: logits that are on no grid, to 1e-6 of the largest."""
    path = folder / f"model{TARGET.suffix}"
    path.write_bytes(TARGET.build(frozen, Form(), "record"))
    session = TARGET.load(path, 1)
    got = np.concatenate([session.run([image[None].numpy()])[0] for image in images])
    expected = frozen(images).numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * float(np.abs(expected).max()))


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
@pytest.mark.parametrize("name", [*INTEGER, *MIXED, *MAPS])
def test_every_kind(name: str, bits: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    behind = (INTEGER | MIXED | MAPS)[name]
    frozen = frozen_of(Small(behind, ends=name not in MAPS), bits, 3, 16, 16)
    outputs_agree(frozen, noise(6, 3, 16, 16, seed=1), tmp_path)


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
def test_pixels_that_are_normalised_otherwise_have_a_border_of_their_own(bits: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    frozen = frozen_of(Small(lambda net, y: y, ends=True), bits, 3, 16, 16, normalization="imagenet")
    assert any(node.kind == "border" for node in frozen.graph.nodes)
    outputs_agree(frozen, noise(6, 3, 16, 16, seed=1), tmp_path)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize(("network", "shape"), [(Rows, (3, 64)), (Tokens, (3, 16, 16)), (Attention, (3, 16, 16))])
def test_rows_and_tokens(network: type[nn.Module], shape: tuple[int, ...], bits: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    frozen = frozen_of(network(), bits, *shape)
    outputs_agree(frozen, noise(6, *shape, seed=1), tmp_path)
