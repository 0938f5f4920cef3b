"""The page of operators says what the contract's rows say."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from dense_models import cases, is_dense
from operators_page import contract_part, page, spelling_text
from torch import nn
from trial import WIDTHS

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


def test_the_dense_family_is_summed_up() -> None:
    row = {"bits": "w8a8", "floats": {}, "compared": 1000, "differing": 0, "differing_behind_float": 1}
    row |= {"behind_float": 50, "integer_macs": 0.98, "speed_over_fp32": None}
    names = ("HRNet", "torchvision: fcn_resnet50", "torchvision: resnet18")
    rows = [row | {"network": name, "integer_macs": share} for name, share in zip(names, (1.0, 0.99, 0.5), strict=True)]
    text = page(rows)
    assert "are built on: 2 of those above, 2 files." in text
    assert "0 of 2,000 codes differ, and behind operations in float 2 of 100." in text
    assert (
        "kernels is 99.0%, of torchvision: fcn_resnet50." in text and "- HRNet\n- torchvision: fcn_resnet50\n" in text
    )
    assert "## The family" not in page([row | {"network": "torchvision: resnet18"}])


def test_the_family_has_sixteen_networks_that_are_all_measured() -> None:
    rows = json.loads((DOCS / "results/conformance.json").read_text(encoding="utf-8"))["rows"]
    measured = {(row["network"], row["bits"]) for row in rows if is_dense(row["network"]) and "error" not in row}
    names = {name for name, _ in measured}
    assert len(names) >= 16 and measured == {(name, bits) for name in names for bits in WIDTHS}
    assert {name for name, _, _ in cases()} <= names
