"""How every kind of node is written in ONNX: one table, joined from one file a family, as in ``graph.ops``."""

from qkd_deploy.export.emitter import Emitter
from qkd_deploy.export.ops import (
    activations,
    arithmetic,
    concat,
    constants,
    copying,
    float_ops,
    gates,
    indexing,
    layers,
    lookups,
    matmul,
    movement,
    normalization,
    pooling,
    reductions,
    whole_numbers,
)

FAMILIES = (
    constants,
    layers,
    arithmetic,
    matmul,
    concat,
    pooling,
    reductions,
    activations,
    lookups,
    gates,
    normalization,
    movement,
    indexing,
    copying,
    whole_numbers,
    float_ops,
)

EMITTERS: dict[str, Emitter] = {kind: emitter for family in FAMILIES for kind, emitter in family.EMITTERS.items()}
"""By kind of node; with ``NOT_WRITTEN``, all kinds of the contract."""

NOT_WRITTEN = frozenset({"scalar"})
"""Kinds that make no tensor: sizes and other numbers of the user's code."""
