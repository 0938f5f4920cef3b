"""The page of operators says what the contract's rows say."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from operators_page import contract_part, page, spelling_text
from torch import nn

from qkd_deploy.graph.ops import TORCH_OPS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_committed_page_is_up_to_date() -> None:
    text = (DOCS / "operators.md").read_text(encoding="utf-8")
    assert contract_part() in text, "a row of the contract has changed; run make page"
    assert text == page(json.loads((DOCS / "results/conformance.json").read_text(encoding="utf-8"))["rows"])


def test_every_spelling_has_its_place_on_the_page() -> None:
    text = contract_part()
    for target in TORCH_OPS:
        assert f"`{spelling_text(target)}`" in text, target


def test_spellings_read_as_users_write_them() -> None:
    assert [spelling_text(target) for target in (nn.ReLU, F.relu, torch.relu, "relu")] == [
        "nn.ReLU",
        "F.relu",
        "torch.relu",
        ".relu()",
    ]
    for target in TORCH_OPS:
        assert not spelling_text(target).startswith(("<", "boolean_dispatch")), target


def test_networks_say_what_stays_in_float() -> None:
    row = {"network": "net", "bits": "w8a8", "floats": {}, "compared": 1234, "differing": 1, "behind_float": 0}
    row |= {"differing_behind_float": 0, "integer_macs": 0.97, "speed_over_fp32": 1.5}
    island = row | {"bits": "w4a4", "floats": {"LayerNorm": "no kernel"}, "behind_float": 100, "speed_over_fp32": None}
    lines = page([row, island, {"network": "bad", "bits": "w8a8", "error": "UserError: no"}]).splitlines()
    assert "| net | LayerNorm | 2 of 2,468 | 0 of 100 | 97.0% | 1.50x |  |  |" in lines
    assert "| bad | not prepared: UserError: no |  |  |  |  |  |  |" in lines
