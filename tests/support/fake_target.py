"""A target of another package: its files are ONNX behind a mark, and its runtime can be told to misbehave."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from qkd_deploy.export.targets.target import Form, TargetKernel

if TYPE_CHECKING:
    from qkd_deploy.graph.integer.model import FrozenModel

MARK = b"FAKE"
BEHAVIOUR = "FAKE_TARGET"
"""Environment variable: "abort", "hang", "refuse", "off by one step" and "float" do not do as they should."""


class FakeTarget:
    name, title, extra = "fake", "Fake Runtime", ""
    modules: tuple[str, ...] = ("onnxruntime",)
    suffix, batch = ".fake", 3
    check_session = """
def load(path, threads):
    import onnxruntime

    with open(path, "rb") as file:
        content = file.read()
    model = content[8 + int.from_bytes(content[4:8], "little") :]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return "Fake Runtime 0.1", lambda inputs: session.run(None, dict(zip(names, inputs)))
"""

    def tolerance(self, frozen: FrozenModel) -> int:
        return 0

    def build(self, frozen: FrozenModel, form: Form, record: str) -> bytes:
        from qkd_deploy.export.emit import emit

        model = emit(frozen, weights=form.weights, input_type=form.input).model
        return MARK + len(record).to_bytes(4, "little") + record.encode() + model.SerializeToString(deterministic=True)

    def beside(self, content: bytes) -> dict[str, bytes]:
        return {}

    def record(self, content: bytes) -> str | None:
        if content[:4] != MARK:
            return None
        return content[8 : 8 + int.from_bytes(content[4:8], "little")].decode(errors="replace")

    def meaning(self, content: bytes) -> bytes:
        return content

    def load(self, path: Path, threads: int) -> FakeSession:
        content = path.read_bytes()
        return FakeSession(content[8 + int.from_bytes(content[4:8], "little") :])


class FakeSession:
    version = "0.1"

    def __init__(self, model: bytes) -> None:
        import onnxruntime

        print("a runtime that prints")  # noqa: T201
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self._names = [value.name for value in self._session.get_inputs()]
        self._model = onnx.load_from_string(model)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        behaviour = os.environ.get(BEHAVIOUR, "")
        assert len(inputs[0]) == FakeTarget.batch
        if behaviour == "abort":
            os.abort()
        if behaviour == "hang":
            time.sleep(60)
        if behaviour == "refuse":
            raise RuntimeError("no kernel for this\nand more")
        outputs = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return [output + np.ptp(output) / 255 for output in outputs] if behaviour.startswith("off") else outputs

    def kernels(self) -> list[TargetKernel]:
        integer = os.environ.get(BEHAVIOUR) != "float"
        return [TargetKernel("Conv", sum(node.op_type == "Conv" for node in self._model.graph.node), integer)]


TARGET = FakeTarget()


def register(folder: Path) -> str:
    """Write what an installed package looks like into a folder; returns a PYTHONPATH with which it is found."""
    info = folder / "fake_target-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-target\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[qkd_deploy.targets]\nfake = fake_target:TARGET\n")
    paths = [str(folder), str(Path(__file__).parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.pathsep.join([*paths, *filter(None, sys.path)])
