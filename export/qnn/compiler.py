"""Context binaries: what the HTP loads, compiled ahead, in a process of its own.

``python -m qkd_deploy.export.qnn.compiler MODEL BINARY`` is that process.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from qkd_deploy.errors import UserError
from qkd_deploy.export.qnn.session import session_of
from qkd_deploy.runtimes.child_process import Answer, ChildProcess, serve
from qkd_deploy.runtimes.runtime import RuntimeFault

_SECONDS = 600.0


class _Compiler(ChildProcess):
    def __enter__(self) -> _Compiler:
        return self


def context_binary(content: bytes, title: str) -> bytes:
    """Compile a model; returns an ONNX file whose one node holds the binary.

    Raises:
        UserError: it cannot be compiled.
    """
    with tempfile.TemporaryDirectory(prefix="qkd-deploy-") as folder:
        model, binary = Path(folder) / "model.onnx", Path(folder) / "context.onnx"
        model.write_bytes(content)
        try:
            with _Compiler(__name__, str(model), str(binary), title=title, seconds=_SECONDS) as compiler:
                compiler.asked({"do": "compile"})
        except RuntimeFault as error:
            raise UserError(f"{title} cannot compile the file ahead ({error}); nothing was written") from error
        return binary.read_bytes()


def main(model: str, binary: str) -> int:
    """Compile when asked, and answer until stdin ends."""

    def answer(words: dict[str, Any], arrays: list[np.ndarray]) -> Answer:
        entries = {"ep.context_enable": "1", "ep.context_embed_mode": "1", "ep.context_file_path": binary}
        session_of(Path(model).read_bytes(), 1, {}, entries)  # from bytes, so that no path is in the binary
        return {}, []

    return serve(answer)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
