"""The table of emitters."""

from __future__ import annotations

from types import ModuleType

from qkd_deploy.export import ops
from qkd_deploy.export.ops import EMITTERS, NOT_WRITTEN
from qkd_deploy.graph import ops as contract
from qkd_deploy.graph.ops import OPERATORS


def test_every_kind_of_node_has_an_emitter() -> None:
    assert EMITTERS.keys() | NOT_WRITTEN == OPERATORS.keys()
    assert not EMITTERS.keys() & NOT_WRITTEN


def test_an_operator_is_written_in_the_file_of_its_row() -> None:
    written = {kind: _file(family) for family in ops.FAMILIES for kind in family.EMITTERS}
    rows = {row.name: _file(family) for family in contract.FAMILIES for row in family.ROWS}
    assert written == {kind: rows[kind] for kind in written}


def _file(family: ModuleType) -> str:
    return family.__name__.rpartition(".")[2]
