"""Checkpoints with damaged bytes and odd fields: they are read, or refused with one line; nothing else escapes."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qkd_deploy.calibration.one_batch import initialize
from qkd_deploy.checkpoints.checkpoint import Checkpoint, load_checkpoint, prepare_student, rebuild, save_checkpoint
from qkd_deploy.checkpoints.records import DatasetRecord, ModelRecord, TrainingRecord
from qkd_deploy.checkpoints.torch_file import save_tensors
from qkd_deploy.checkpoints.weights import read_weights
from qkd_deploy.cli.main import main
from qkd_deploy.errors import UserError
from qkd_deploy.graph.placement.settings import NetworkBits
from qkd_deploy.models import create_model
from qkd_deploy.pixels.normalization import CENTERED

EXAMPLES = int(os.environ.get("QKD_FUZZ", "60"))
BOUNDED = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES == 60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of a good checkpoint."""
    torch.manual_seed(0)
    quantization = NetworkBits(bits_for={"fc": "w8a8"}).quantization(CENTERED)
    prepared = prepare_student(create_model("plaincnn", 10, 1), [1, 8, 8], quantization)
    initialize(prepared, torch.randn(4, 1, 8, 8))
    checkpoint = Checkpoint(
        dict(prepared.state_dict()),
        ModelRecord("plaincnn", 10, 1, [1, 8, 8]),
        DatasetRecord("digits", "digits", "0123456789abcdef", list("0123456789"), CENTERED.as_entry()),
        TrainingRecord("qkd", 3, 0, 97.5, 359),
        quantization,
    )
    path = tmp_path_factory.mktemp("good") / "model.pt"
    save_checkpoint(path, checkpoint)
    content: dict[str, Any] = torch.load(path, weights_only=True)
    del content["sealed"]
    return content


def knot() -> list[Any]:
    """A list whose 2^40 values are 41 lists."""
    value: list[Any] = [0, 0]
    for _ in range(40):
        value = [value, value]
    return value


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100):
        value = [value]
    return value


ODD_VALUES: list[Any] = [
    None, True, -1, 0, 1, 5, 2**31, 2**63, 10**400, 1e30, -0.0, float("nan"), float("inf"), "", "x" * 200_000,
    "w4a4", b"w4a4", [], {}, {5: 6}, {"": {}}, {b"a": 1}, [1, 8, 8], [1, 16, 16], [2**40, 1, 1], [1, 1e30, 8],
    (1, 8, 8), ["0", b"1"], {1, 2}, 1j, knot(), deep(), bytearray(b"x"), torch.Size([1, 8, 8]), torch.float32,
]  # fmt: skip
ODD_TENSORS: list[Any] = [
    torch.tensor(0.0), torch.tensor([]), torch.zeros(3, dtype=torch.int8), torch.zeros(2, dtype=torch.complex64),
    torch.tensor(float("nan")), torch.tensor(-1.0), torch.ones(1).expand(2**40), torch.empty(3, device="meta"),
    torch.eye(3).to_sparse(), torch.tensor([True]), torch.full((3,), 255, dtype=torch.uint8), torch.tensor(1e38),
]  # fmt: skip
odd = st.sampled_from([*ODD_VALUES, *ODD_TENSORS]) | st.integers() | st.floats() | st.text(max_size=3)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all entries in a content, those of lists included."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    own = [(*path, key) for key in keys]
    return own + [inner for place in own for inner in places(content[place[-1]], place)]


def with_entry(content: dict[str, Any], path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> dict[str, Any]:
    changed = {key: copy.deepcopy(value) if key != "state_dict" else dict(value) for key, value in content.items()}
    holder: Any = changed
    for key in path[:-1]:
        holder = holder[key]
    change(holder, path[-1])
    return changed


def require_one_line(call: Callable[[], Any]) -> None:
    try:
        call()
    except UserError as error:
        assert str(error) and len(str(error)) < 1000, str(error)[:2000]


@BOUNDED
@given(data=st.data())
def test_odd_entries(good: dict[str, Any], tmp_path: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(places(good)))
    how = data.draw(st.sampled_from(["set", "set", "set", "remove", "rename"]))
    value = data.draw(odd)

    def change(holder: Any, key: Any) -> None:
        if how == "set":
            holder[key] = value
        else:
            old = holder.pop(key)
            if how == "rename" and isinstance(holder, dict):
                holder[value if isinstance(value, (str, int, float, bytes)) else "other"] = old

    save_tensors(tmp_path / "odd.pt", with_entry(good, path, change))
    require_one_line(lambda: rebuild(load_checkpoint(tmp_path / "odd.pt")))
    require_one_line(lambda: read_weights(tmp_path / "odd.pt"))


@settings(BOUNDED, max_examples=5 * EXAMPLES)
@given(data=st.data())
def test_damaged_bytes(good: dict[str, Any], tmp_path: Path, data: st.DataObject) -> None:
    """Without a seal, so that the reader of the format itself is put to the test."""
    buffer = io.BytesIO()
    torch.save({**good, "state_dict": dict(list(good["state_dict"].items())[-3:])}, buffer)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        at, byte = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 255))
        match data.draw(st.sampled_from(["set", "set", "insert", "cut"])):
            case "set":
                content[at] = byte
            case "insert":
                content[at:at] = bytes([byte]) * data.draw(st.integers(1, 5))
            case _:
                del content[at : at + data.draw(st.integers(1, 5))]
    (tmp_path / "damaged.pt").write_bytes(content)
    require_one_line(lambda: load_checkpoint(tmp_path / "damaged.pt"))
    require_one_line(lambda: read_weights(tmp_path / "damaged.pt"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("model", "image_shape"), [1, 1e30, 8]),
        (("model", "image_shape"), [1, 2**14, 2**14]),
        (("model", "image_shape"), [3, 8, 8]),
        (("model", "num_classes"), 2**23),
        (("quantization", "overrides"), {5: 6}),
        (("quantization", "input_zero_point"), 300),
        (("quantization", "input_scale"), float("inf")),
        (("dataset", "classes"), [b"cat", b"dog"]),
        (("dataset", "normalization"), {"mean": "x", "std": knot()}),
        (("model", "args"), deep()),
        (("training", "accuracy"), None),
        (("state_dict",), {5: torch.ones(3)}),
        (("state_dict", "network.fc.bias"), torch.eye(3).to_sparse()),
        (("state_dict", "network.fc.bias"), torch.empty(10, device="meta")),
        (("state_dict", "network.fc.bias"), torch.ones(1).expand(2**40)),
        (("format_version",), torch.ones(3)),
        (("format",), torch.ones(3)),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "export"])
def test_commands_refuse_odd_entries_with_one_line(
    good: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    path: tuple[str, ...],
    value: Any,
    command: str,
) -> None:
    save_tensors(tmp_path / "odd.pt", with_entry(good, path, lambda holder, key: holder.__setitem__(key, value)))
    assert main([command, str(tmp_path / "odd.pt")]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("Error: ") and err.count("\n") == 1, err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["odd.pt"]


@pytest.mark.parametrize("shape", [[1, 4, 4], [1, 9, 7], [1, 16, 16]])
def test_a_changed_image_shape_is_not_exported(good: dict[str, Any], tmp_path: Path, shape: list[int]) -> None:
    """The digest tells: a file for images of another size would fail verify."""
    save_tensors(tmp_path / "model.pt", good)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    content["model"]["image_shape"] = shape
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(UserError, match="has lost the digest"):
        load_checkpoint(tmp_path / "model.pt")
