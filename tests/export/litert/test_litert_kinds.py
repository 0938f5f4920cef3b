"""Every kind of node in a ``.tflite`` file: XNNPACK gives the outputs of the integer model, bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from deployment import noise
from litert_files import WIDTHS, frozen_of, outputs_of
from node_kinds import INTEGER, MAPS, MIXED, Attention, Rows, Small, Tokens
from torch import nn

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'qkd-deploy[litert]'")


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("name", [*INTEGER, *MIXED, *MAPS])
def test_every_output_is_that_of_the_integer_model(name: str, bits: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    behind = (INTEGER | MIXED | MAPS)[name]
    frozen = frozen_of(Small(behind, ends=name not in MAPS), bits, 3, 16, 16)
    images = noise(6, 3, 16, 16, seed=1)
    got, kernels = outputs_of(frozen, images, tmp_path)
    np.testing.assert_array_equal(got, frozen(images).numpy())
    assert any(kernel.name == "CONV_2D" and kernel.integer for kernel in kernels)
    assert not [kernel for kernel in kernels if "without" in kernel.name]
    if name in INTEGER:
        floats = {kernel.name: kernel.count for kernel in kernels if not kernel.integer}
        assert floats.pop("FULLY_CONNECTED") == 1
        assert floats.keys() <= {"DIV", "ROUND", "MUL"}  # of the input, and of the last layer's result


@pytest.mark.parametrize("bits", WIDTHS)
def test_pixels_that_are_normalised_otherwise_have_a_border_of_their_own(bits: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    frozen = frozen_of(Small(lambda net, y: y, ends=True), bits, 3, 16, 16, normalization="imagenet")
    assert any(node.kind == "border" for node in frozen.graph.nodes)
    images = noise(6, 3, 16, 16, seed=1)
    got, _ = outputs_of(frozen, images, tmp_path)
    np.testing.assert_array_equal(got, frozen(images).numpy())


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize(("network", "shape"), [(Rows, (3, 64)), (Tokens, (3, 16, 16)), (Attention, (3, 16, 16))])
def test_rows_and_tokens(network: type[nn.Module], shape: tuple[int, ...], bits: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    frozen, images = frozen_of(network(), bits, *shape), noise(6, *shape, seed=1)
    got, _ = outputs_of(frozen, images, tmp_path)
    np.testing.assert_array_equal(got, frozen(images).numpy())
