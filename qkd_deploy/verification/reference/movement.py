"""Operators that move, convert or copy values without rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from qkd_deploy.verification.onnx_graph import attributes_of
from qkd_deploy.verification.reference.operator import Operator

MOVES = frozenset(
    {
        "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "Identity", "Pad", "Reshape", "Slice",
        "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators whose every output element is an input element, whatever it means."""


def _takes_nearest(node: onnx.NodeProto) -> bool:
    return bool(attributes_of(node).get("mode", b"nearest") == b"nearest")


def _cast(node: onnx.NodeProto, codes: np.ndarray, _: list[np.ndarray | None]) -> np.ndarray:
    kind: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(attributes_of(node)["to"])
    return codes.astype(kind)


OPERATORS = {
    **dict.fromkeys(MOVES, Operator(moves=True)),
    **dict.fromkeys(("ReduceMax", "ReduceMin"), Operator(moves=True)),  # larger codes are larger values
    "Resize": Operator(moves=_takes_nearest),
    "Cast": Operator(on_integers=_cast, rounds_once=True),
    "ConstantOfShape": Operator(rounds_once=True),
}
