"""Damaged ONNX files: no traceback, and never VERIFIED for another computation. ``QKD_FUZZ=5000`` tries many more."""

from __future__ import annotations

import json
import time
from pathlib import Path

import onnx
import pytest
from damage import FUZZ, damage_a_field, damaged_bytes, damaged_json
from forged import entries, with_digests
from hypothesis import given
from hypothesis import strategies as st
from small_network import small_network

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import PREFIX, read_metadata, write_metadata
from qkd_deploy.verification.verify import verify_onnx
from qkd_deploy.workflows.inspect import inspect_onnx

ORIGINAL = small_network()
ORIGINAL.metadata_props.add(key=f"{PREFIX}normalization", value='{"mean": 128.0, "std": 64.0}')
ORIGINAL.metadata_props.add(key=f"{PREFIX}classes", value=json.dumps(list("abcde")))
ORIGINAL.metadata_props.add(
    key=f"{PREFIX}accuracy", value='{"dataset": "toy", "fingerprint": "ab", "images": 7, "integer": 75.0}'
)
write_metadata(ORIGINAL, read_metadata(ORIGINAL))
DATA = ORIGINAL.SerializeToString(deterministic=True)
LONGEST = 60.0
"""Seconds that a file may take."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "model.onnx"


def judge(path: Path, data: bytes) -> None:
    """Inspect and verify a file: a report or one sentence; VERIFIED only where it says what the original says."""
    path.write_bytes(data)
    started = time.monotonic()
    for act in (lambda: inspect_onnx(path), lambda: verify_onnx(path, expected=ORIGINAL, threads=(1,))):
        try:
            found = act()
        except UserError as error:
            assert str(error).strip()
            continue
        if getattr(found, "proven", "") == "VERIFIED":
            model = onnx.load_from_string(data)
            assert model.graph.SerializeToString() == ORIGINAL.graph.SerializeToString()
            assert entries(model) == entries(ORIGINAL)
    assert time.monotonic() - started < LONGEST


@FUZZ
@given(st.data())
def test_damaged_bytes(path: Path, data: st.DataObject) -> None:
    judge(path, damaged_bytes(data.draw, DATA))


@FUZZ
@given(st.data(), st.booleans())
def test_damaged_fields(path: Path, data: st.DataObject, forged: bool) -> None:
    model = onnx.load_from_string(DATA)
    for _ in range(data.draw(st.integers(1, 2))):
        damage_a_field(data.draw, model)
    judge(path, with_digests(model) if forged else model.SerializeToString(deterministic=True))


@FUZZ
@given(st.data(), st.booleans())
def test_damaged_metadata(path: Path, data: st.DataObject, forged: bool) -> None:
    model = onnx.load_from_string(DATA)
    prop = data.draw(st.sampled_from([prop for prop in model.metadata_props if prop.value[:1] in "[{"]))
    prop.value = json.dumps(damaged_json(data.draw, json.loads(prop.value)))
    judge(path, with_digests(model) if forged else model.SerializeToString(deterministic=True))


@FUZZ
@given(st.data())
def test_damaged_constants_with_forged_digests(path: Path, data: st.DataObject) -> None:
    """A changed number computes something else, whatever the file says of itself."""
    model = onnx.load_from_string(DATA)
    tensor = data.draw(st.sampled_from(list(model.graph.initializer)))
    at = data.draw(st.integers(0, len(tensor.raw_data) - 1))
    flip = data.draw(st.integers(1, 255))
    tensor.raw_data = tensor.raw_data[:at] + bytes([tensor.raw_data[at] ^ flip]) + tensor.raw_data[at + 1 :]
    judge(path, with_digests(model))
