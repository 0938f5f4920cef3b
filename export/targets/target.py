"""The seam to a runtime that takes files of its own form: what has to be known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import onnx

    from qkd_deploy.graph.integer.model import FrozenModel
    from qkd_deploy.runtimes.profile import NodeTime


@dataclass(frozen=True)
class Form:
    """How a file is to be written.

    Attributes:
        input: "float32", what the network takes; "uint8", raw pixels.
        weights: "int8" or "packed".
        normalization: what a float input takes pixels as (the metadata entry); None for ``(pixel - 128) / 64``.
    """

    input: str = "float32"
    weights: str = "int8"
    normalization: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class TargetKernel:
    """Evidence of what runs: so many kernels of a name, in integers or in float."""

    name: str
    count: int
    integer: bool


class TargetSession(Protocol):
    """A file that its runtime has loaded."""

    version: str

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute one batch.

        Args:
            inputs: as the network takes them, float32 ``[N, C, H, W]`` for images; uint8 pixels where the form says so.

        Returns:
            The network's outputs in order, dequantized, float32, in the network's own layout.
        """

    def kernels(self) -> list[TargetKernel]:
        """Tell what runs; empty where the runtime does not say."""


class Target(Protocol):
    """A runtime and the form of its files; ``registry`` finds them by name.

    Attributes:
        name: what ``--target`` takes.
        title: what people call the runtime.
        extra: of this package, that installs the runtime; "" where nothing more is needed.
        modules: what has to be importable for it.
        suffix: takes the place of the checkpoint's in the name of its files.
        batch: the number of samples that its files are fixed to; None where they take any.
    """

    name: str
    title: str
    extra: str
    modules: tuple[str, ...]
    suffix: str
    batch: int | None

    def tolerance(self, frozen: FrozenModel) -> int:
        """By how many steps of an output's grid the runtime may differ."""

    def build(self, frozen: FrozenModel, form: Form, record: str) -> bytes:
        """Write the file; ``record`` is stored verbatim and once, as the text that it is.

        Args:
            frozen: the integer model, without a tail that decodes.
            form: how it is to be written.
            record: what the file is to say of itself, in letters, digits, ``+``, ``/`` and ``=``.

        Raises:
            UserError: the runtime cannot take something, which the sentence names with what to do.
        """

    def beside(self, content: bytes) -> dict[str, bytes]:
        """Further files that builders of the runtime want, by the suffix of their names; most targets have none."""

    def record(self, content: bytes) -> str | None:
        """Read what ``build`` stored, without the runtime; None in a file of another kind."""

    def meaning(self, content: bytes) -> bytes:
        """What two files of the same content and record have in common: the bytes, where ``build`` repeats them all."""

    def load(self, path: Path, threads: int) -> TargetSession:
        """Load a file; called in a child process alone, so that an abort of the runtime is a result."""


@runtime_checkable
class TimesNodes(Protocol):
    """A session that also tells how long each node takes, whose names are those of the user's modules and a slash."""

    def node_times(self, inputs: Sequence[np.ndarray], seconds: float) -> Sequence[NodeTime]:
        """Run one batch again and again for about so many seconds; the nodes in order, seconds of a run for each."""


@runtime_checkable
class TakesOnnx(Protocol):
    """A target whose runtime also computes ONNX models; ``bench`` measures the network in float there, too."""

    def from_onnx(self, model: onnx.ModelProto) -> bytes:
        """Bring any ONNX model into the form of file that ``load`` takes.

        Raises:
            UserError: the runtime cannot take something in it.
        """


@runtime_checkable
class Simulated(Protocol):
    """A target whose runtime here is a simulator, so that its times say nothing about a device.

    Attributes:
        simulates: what it stands for.
    """

    simulates: str


@runtime_checkable
class Replayed(Protocol):
    """A target whose files ``check.py`` of a bundle can load on a device, where this package is not.

    Attributes:
        check_session: Python source, for Python 3.8, that needs the standard library, NumPy and the runtime alone. It
            defines ``load(path, threads)``, which imports the runtime and returns two things: its name and version in
            one text, and a function from a batch of inputs (a list of arrays) to outputs, as ``TargetSession.run``.
    """

    check_session: str
