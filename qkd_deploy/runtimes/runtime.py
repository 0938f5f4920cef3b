"""The seam to a runtime: sessions, the graph that it really builds, and its name and version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx


class RuntimeFault(Exception):
    """A runtime refused a model or its inputs; the message is the runtime's own, and callers say what it means."""

    @property
    def first_line(self) -> str:
        """The first line of the runtime's message."""
        return str(self).splitlines()[0]

    @property
    def last_line(self) -> str:
        """The last line of the runtime's message, which names the cause where there are several."""
        return str(self).strip().splitlines()[-1].strip()


@dataclass(frozen=True)
class SessionInput:
    """One input of a session: its name, its sizes (None where any is taken), and the type of its elements."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]


class Session(Protocol):
    """A loaded model."""

    @property
    def inputs(self) -> tuple[SessionInput, ...]:
        """Inputs in graph order."""

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the outputs of one batch, by name and in graph order.

        Raises:
            RuntimeFault: the inputs do not fit the model.
        """


class Runtime(Protocol):
    """A program that runs ONNX models."""

    @property
    def name(self) -> str:
        """The name that people use."""

    @property
    def version(self) -> str:
        """The installed version."""

    def session(
        self, model: onnx.ModelProto | bytes | Path, threads: int = 1, *, precise: bool = False, optimized: bool = True
    ) -> Session:
        """Load a model.

        Args:
            model: the model, its bytes, or the path of a file.
            threads: how many it computes with.
            precise: keep sums of 8-bit products from saturating, on CPUs where they would.
            optimized: fuse and rewrite operators; False runs them as they are written.

        Raises:
            RuntimeFault: the model cannot be loaded.
        """

    def optimized_graph(self, model: onnx.ModelProto | bytes) -> onnx.ModelProto:
        """The graph that the runtime builds from ``model`` on this machine, with its fused kernels.

        Raises:
            RuntimeFault: the model cannot be loaded.
        """
