"""The float fake-quantized model against the integer one, layer by layer on the same codes.

Comparing whole networks would only show how single rounding ties cascade. Here every layer of the prepared model gets
the frozen model's codes as input, so that each difference is that layer's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.ops.lookups import LOOKUP
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.graph.quantized import QuantizedTensor, QuantParams, real

StoredCodes = npt.NDArray[np.uint8]

_TIE = 1e-4
"""Distance from a tie, in steps, that the order of summation in float32 may account for."""
_BETWEEN_ZERO_POINTS = 128
"""Codes between the zero point that tanh and hard sigmoid are made around and the one they are read around."""


@torch.inference_mode()
def preview_codes(
    prepared: PreparedModel, frozen: FrozenModel, *inputs: Any
) -> Iterator[tuple[str, StoredCodes, StoredCodes]]:
    """For every quantized tensor: its name, the preview's codes and the frozen model's, both as stored (uint8).

    A value that lies on a rounding tie, as far as float sums can tell, has two right codes; here it gets the frozen
    model's.

    Args:
        prepared: the model that ``frozen`` came from, in eval mode.
        frozen: the integer model.
        inputs: a batch as the network takes it.
    """
    found: list[tuple[str, StoredCodes, StoredCodes]] = []

    def observe(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], value: QuantizedTensor) -> None:
        # the frozen grids: freezing moved the steps of additions by parts in a million, for the CPUs' sake, which
        # can move a bias to the next integer
        grid = None if node.source is None else frozen.grid(node.source)
        source = None if grid is None else (grid.scale, grid.extent)
        before = prepared.unquantized(node, _operands(node, args), real(kwargs), source)
        made, tie = value.grid.quantize(before).float(), _TIE + _shift(prepared, node, value.grid)
        codes = _without_ties(before / value.grid.scale, made, value.codes, tie)
        found.append((node.name, value.grid.store(codes), value.grid.store(value.codes)))

    frozen.run_observed(inputs, observe)
    return iter(found)


def _operands(node: Node, args: tuple[Any, ...]) -> Any:
    """The operands' real values; of a table in float64, in which its 256 codes are computed.

    Every element with one code has one result: a tie that float32 decides otherwise may be a large share of a tensor.
    """
    values = real(args)
    return (values[0].double(), *values[1:]) if node.kind == LOOKUP.name else values


def _shift(prepared: PreparedModel, node: Node, grid: QuantParams) -> float:
    """By how many steps codes of a function that is read off another's may lie beside those of its value.

    Such codes are made around one zero point and read around another. Where freezing moved the scale by a few
    parts in a million, for the CPUs' sake, the distance of both is no longer a whole number of steps.
    """
    if operator_of(node).relabelling is None or node.quantizer is None:
        return 0.0
    nominal = float(prepared.activation(node.quantizer).scale())
    return _BETWEEN_ZERO_POINTS * abs(float(grid.scale) / nominal - 1)


def _without_ties(steps: Tensor, codes: Tensor, frozen: Tensor, distance: float = _TIE) -> Tensor:
    """``codes`` of values in ``steps``, where those within ``distance`` of a tie take the side of ``frozen``."""
    on_tie = ((codes - frozen).abs() == 1) & ((steps - (codes + frozen) / 2).abs() <= distance)
    return torch.where(on_tie, frozen, codes)
