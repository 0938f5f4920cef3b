"""Configurations of any content: settings, or one line; quickly, and with nothing allocated by what they say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qkd_deploy import UserError
from qkd_deploy.settings import declarations
from qkd_deploy.training.config import TrainConfig, make_config, read_config

EXAMPLES = int(os.environ.get("QKD_FUZZ", "100"))
_FUZZ = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])

NUMBERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.sampled_from([0, 1, -1, 2, 8, 1e30, -1e30, 2**31, 2**63 - 1])
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        NUMBERS, st.text(max_size=8), st.booleans(), st.dates(), st.sampled_from(["w4a4", "*", "float", "auto", ""])
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=6,
)
NAMES = st.sampled_from([declared.name for declared in declarations(TrainConfig)]) | st.text(max_size=10)


def configured(path: Path) -> None:
    """Read a configuration; only our own error may come of it, on one line."""
    try:
        make_config(read_config(path))
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000, str(error)


@_FUZZ
@given(table=st.dictionaries(NAMES, VALUES, max_size=4))
def test_tables_of_any_values(table: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    try:
        path.write_text(tomli_w.dumps(table), encoding="utf-8")
    except (TypeError, ValueError, UnicodeEncodeError):  # no TOML at all
        return
    configured(path)


@_FUZZ
@given(content=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_files_of_any_bytes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    configured(tmp_path / "config.toml")


@pytest.mark.parametrize("depth", [10, 1_000, 10_000])
@pytest.mark.parametrize("opening", ["[", "{a="])
def test_nesting_without_end(depth: int, opening: str, tmp_path: Path) -> None:
    closing = {"[": "]", "{a=": "}"}[opening]
    inside = "1" if opening != "[" else ""
    (tmp_path / "config.toml").write_text(f"model_args = {{ x = {opening * depth}{inside}{closing * depth} }}\n")
    configured(tmp_path / "config.toml")
