"""Ways out of files that cannot be verified: where one is exported again, as the sentence says, it passes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from exported import Network, exported, verified
from forged import with_digests
from onnx import TensorProto, helper
from torch import nn
from ways import Way, follow

from qkd_deploy.export.metadata import PREFIX

Change = Callable[[onnx.ModelProto], object]


@pytest.fixture(scope="module", autouse=True)
def _honest(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Export a file; its bytes are what the rows damage."""
    folder = tmp_path_factory.mktemp("files")
    exported(Network(), folder / "model.onnx")
    BYTES.append((folder / "model.onnx").read_bytes())


BYTES: list[bytes] = []


def again(path: Path) -> None:
    """Export it again: the file takes the place of the refused one, and is verified."""
    exported(Network(), path / "again.onnx")
    verified(path / "again.onnx")


def damaged(change: Callable[[bytes], bytes], said: str) -> Way:
    """A file whose bytes are others than those that were written."""

    def wrong(path: Path) -> None:
        (path / "model.onnx").write_bytes(change(BYTES[0]))
        verified(path / "model.onnx")

    return Way(wrong, said, again)


def changed(change: Change, said: str) -> Way:
    """A file that was changed, with digests that fit it."""

    def edit(content: bytes) -> bytes:
        model = onnx.load_from_string(content)
        change(model)
        return with_digests(model)

    return damaged(edit, said)


def without_kernel(model: onnx.ModelProto) -> None:
    """A function in double precision, for which ONNX Runtime has no kernel."""
    cast = helper.make_node("Cast", [model.graph.input[0].name], ["double"], "odd/Cast", to=TensorProto.DOUBLE)
    model.graph.node.extend([cast, helper.make_node("Acos", ["double"], ["odd"], "odd/Acos")])


def pads_by_size(model: onnx.ModelProto) -> None:
    """Pads that depend on the size of the image, as exported files do not have them."""
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    kept = [attribute for attribute in convolution.attribute if attribute.name != "pads"]
    del convolution.attribute[:]
    convolution.attribute.extend([*kept, helper.make_attribute("auto_pad", "SAME_UPPER")])


def no_entries(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def no_nodes(model: onnx.ModelProto) -> None:
    del model.graph.node[:]


def a_second_name(model: onnx.ModelProto) -> None:
    model.graph.node[0].name = model.graph.node[1].name


def entry(model: onnx.ModelProto, key: str) -> onnx.StringStringEntryProto:
    return next(prop for prop in model.metadata_props if prop.key == PREFIX + key)


def other_golden(model: onnx.ModelProto) -> None:
    """Golden inputs of another size than the graph takes."""
    golden = json.loads(entry(model, "golden").value)
    golden["inputs"][0]["shape"][-1] += 1
    entry(model, "golden").value = json.dumps(golden)


def larger(size: int) -> Change:
    """Inputs of so many pixels in height and width."""

    def change(model: onnx.ModelProto) -> None:
        for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
            dim.dim_value = size

    return change


def removed(key: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        model = onnx.load_from_string(content)
        model.metadata_props.remove(entry(model, key))
        return model.SerializeToString(deterministic=True)

    return change


def missing(name: str, said: str, make: Callable[[Path], object]) -> Way:
    """Something else in the place of a file."""
    return Way(lambda path: [make(path / name), verified(path / name)], said, again)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


FILES: dict[str, Way] = {
    "damage": damaged(lambda content: content[:-9], "or it is damaged; export it again"),
    "no operators": damaged(lambda content: b"", "it holds no operators; give the file that `qkd-deploy export` wrote"),
    "of another maker": changed(no_entries, "no metadata entry qkd_deploy.version; write it with `qkd-deploy export`"),
    "a folder": missing("f", "Is a directory; give the file that `qkd-deploy export` wrote", lambda path: path.mkdir()),
    "no file": missing("m.onnx", "write one with `qkd-deploy export`", lambda path: None),
    "a pipe": missing("p", "no regular file; give the file that `qkd-deploy export` wrote", os.mkfifo),
    "too large": missing("l.onnx", "larger than an ONNX model can be (2 GiB); export it again", sparse),
    "another form": changed(a_second_name, "the file is not as `qkd-deploy export` writes it: two nodes are called"),
    "no digests": damaged(removed("digests"), "the file carries no digests, so nothing says what it should be; export"),
    "an operator without a kernel": changed(without_kernel, "for Acos(7) node with name 'odd/Acos'; export it again"),
    "pads that depend on the size": changed(pads_by_size, "auto_pad=SAME_UPPER; export the model again"),
    "golden inputs of others": changed(
        other_golden, "the golden inputs do not fit the model's inputs; export it again"
    ),
}


LARGE: dict[str, tuple[int, int, str]] = {
    "work": (100, 24_000, "would take 1e+13 multiplications for two inputs; export a smaller model"),
    "memory": (3, 23_200, "more than 4 GB; export a smaller model"),
}


@pytest.mark.parametrize("case", LARGE)
def test_a_smaller_model_passes(case: str, tmp_path: Path) -> None:
    kernel, size, said = LARGE[case]
    small = (torch.rand(1, 1, kernel + 1, kernel + 1),)
    network = nn.Sequential(nn.Conv2d(1, 1, kernel), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    exported(network, tmp_path / "small.onnx", *small)
    model = onnx.load(tmp_path / "small.onnx")
    larger(size)(model)
    (tmp_path / "large.onnx").write_bytes(with_digests(model))
    way = Way(lambda path: verified(path / "large.onnx"), said, lambda path: verified(path / "small.onnx"))
    follow(way, tmp_path)


@pytest.mark.parametrize("way", FILES)
def test_a_file_that_is_exported_again_passes(way: str, tmp_path: Path) -> None:
    follow(FILES[way], tmp_path)
