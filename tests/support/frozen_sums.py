"""The worst case of every integer sum of a frozen model: a second opinion on those of its file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from qkd_deploy.graph.integer.model import FrozenModel
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.quantized import POOL_CODE, QuantParams, meets_signed
from qkd_deploy.verification.overflow.bounds import Headroom, layer_headroom, product_headroom
from qkd_deploy.verification.overflow.code_ranges import StoredCodes


def frozen_headroom(frozen: FrozenModel) -> dict[str, Headroom]:
    """The worst case of every node of a frozen model that sums products of integers, by name, in execution order."""
    found: dict[str, Headroom] = {}
    grids: dict[str, QuantParams] = {}  # tensor -> the grid that its codes are on
    for node in frozen.graph.nodes:
        first = node.inputs[0] if node.inputs else ""
        if node.quantizer is not None:
            grids[node.name] = frozen.grid(node.quantizer)
        elif operator_of(node).moves_codes and first in grids:
            grids[node.name] = grids[first]
        if first in grids and (sums := _integer_sums(frozen, node)) is not None:
            weight, bias = sums
            found[node.name] = layer_headroom(node.name, weight, bias, _stored(grids[first]))
        elif (
            operator_of(node).sums_products
            and node.quantizer is not None
            and all(name in grids for name in node.inputs)
        ):
            left, right = (grids[name] for name in node.inputs[:2])
            products = frozen.graph.node(first).sizes[-1]
            factor = _signed(right) if meets_signed(left, right) else _stored(right)
            found[node.name] = product_headroom(node.name, products, _stored(left), factor)
    return found


def _stored(grid: QuantParams) -> StoredCodes:
    return StoredCodes(grid.lo + grid.zero_point, grid.hi + grid.zero_point, grid.zero_point)


def _signed(grid: QuantParams) -> StoredCodes:
    """Of codes that become signed bytes."""
    return StoredCodes(grid.lo - grid.middle, grid.hi - grid.middle, -grid.middle)


def _integer_sums(frozen: FrozenModel, node: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None] | None:
    """Weights [channels, products] and bias of a node that sums integers; None for every other."""
    if node.is_layer and node.source is not None:
        layer = frozen.layer(node)
        if node.quantizer is None and node.kind != "linear":
            return None
        return layer.codes.flatten(1).cpu().numpy(), layer.bias.cpu().numpy()
    if node.kind == "avg_pool" and node.quantizer is not None:
        return np.full((1, math.prod(node.kwargs["kernel_size"])), POOL_CODE, np.int8), None
    return None
