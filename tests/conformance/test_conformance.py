"""Every architecture once, at one of the three widths; ``make conformance`` runs all of them at all widths."""

from __future__ import annotations

import pytest
from architectures import ARCHITECTURES
from trial import WIDTHS, row


@pytest.mark.parametrize(("name", "bits"), [(name, WIDTHS[i % len(WIDTHS)]) for i, name in enumerate(ARCHITECTURES)])
def test_all_codes_are_equal_and_depend_on_the_input(name: str, bits: str) -> None:
    architecture = ARCHITECTURES[name]
    result = row(name, architecture.build, architecture.shape, bits)
    assert result["compared"] > 1000
    assert result["differing"] == 0, result["first"]
    assert result["differing_behind_float"] <= 0.02 * result["behind_float"]
    assert result["dead"] == []
    assert result["moving"] > 0.25
    assert result["floats"].keys() == architecture.floats
    if not architecture.floats:
        assert result["float_kernels"] == {}
        assert result["integer_macs"] == 1
