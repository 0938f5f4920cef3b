"""Which models can take raw pixels: those in which a pixel is its own 8-bit code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qkd_deploy.errors import UserError
from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.quantized import QuantParams
from qkd_deploy.pixels.normalization import Normalization


def require_raw_pixels(frozen: FrozenModel, normalization: Mapping[str, Any] | None) -> None:
    """Refuse uint8 inputs unless a pixel is its own code.

    Args:
        frozen: the integer model.
        normalization: the metadata entry of how the network takes pixels, or None.

    Raises:
        UserError: the network takes whole numbers or floats, or a pixel is no code of its own.
    """
    node = frozen.graph.node(frozen.graph.inputs[0])
    grid = frozen.grid(node.quantizer) if node.quantizer is not None else None
    if node.span is not None:
        kind = str(node.dtype).removeprefix("torch.")
        raise UserError(
            f"the network takes {kind} itself, and so does its file; export without --input uint8 (input in Python)"
        )
    if grid is None:
        raise UserError(
            "--input uint8 needs a quantized input, but this model reads floats; "
            "export with --input float32 (input='float32' in Python)"
        )
    known = normalization is not None and (bool(node.kwargs) or _is_grid(grid, Normalization.of_entry(normalization)))
    if not known or len(frozen.graph.inputs) != 1:
        because = f" ({node.reason})" if node.reason else ""
        raise UserError(
            f"--input uint8 needs a model whose 8-bit input codes are the raw pixels{because}: prepare it with the "
            "normalization of its pixels, such as imagenet; or export with --input float32 (input='float32' in Python)"
        )


def _is_grid(grid: QuantParams, normalization: Normalization) -> bool:
    """True where the codes of pixels that are normalised so are the pixels."""
    means, scales = (
        {value * normalization.divisor for value in values} for values in (normalization.mean, normalization.std)
    )
    return means == {grid.zero_point} and scales == {1 / float(grid.scale)}
