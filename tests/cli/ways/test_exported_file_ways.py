"""Ways out of exported files whose metadata are gone or damaged, and of options that their networks do not allow."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from command_ways import Change, Line, follow, require_all, runs

from qkd_deploy.export.metadata import PREFIX

TEST = "tests/cli/ways/test_exported_file_ways.py::test_the_way_out_works"
CALIBRATE = "export float.pt --calibrate data.npz --calibrate-images 8 --output m.onnx"


def with_entry(key: str, value: str | None) -> Change:
    """Change an entry of the metadata, or take it out."""

    def change(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        entry = next(entry for entry in model.metadata_props if entry.key == PREFIX + key)
        model.metadata_props.remove(entry)
        if value is not None:
            model.metadata_props.add(key=entry.key, value=value)
        onnx.save(model, folder / "model.onnx")

    return change


EXPORT_AGAIN = runs("export model.pt --output model.onnx")
WAYS = {
    "an entry that is gone": Line(
        "inspect model.onnx",
        "write it with `qkd-deploy export`",
        "inspect model.onnx",
        before=with_entry("bits", None),
        mend=EXPORT_AGAIN,
    ),
    "a damaged entry": Line(
        "inspect model.onnx",
        "is damaged ({}); export the model again",
        "inspect model.onnx",
        before=with_entry("tensors", "["),
        mend=EXPORT_AGAIN,
    ),
    "pixels for a network that reads floats": Line(
        f"{CALIBRATE} --bits w8a32 --input uint8",
        "needs a quantized input",
        f"{CALIBRATE} --bits w8a32 --input float32",
    ),
    "a file alone": Line(
        "verify model.onnx --json -",
        "--checkpoint compares with fp32",
        "verify model.onnx --json - --checkpoint model.pt",
        code=0,
    ),
}


def test_all_sentences_are_followed() -> None:
    require_all(WAYS, TEST)


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, folder: Path) -> None:
    follow(WAYS[way], folder, TEST)
