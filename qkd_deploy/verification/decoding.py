"""The decode file beside an integer file: the float tail that was cut off behind it, run on what that gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qkd_deploy.errors import UserError
from qkd_deploy.export.decode import decode_path
from qkd_deploy.export.metadata import DecodeMetadata, DecodeRecord, read_decode_metadata
from qkd_deploy.gate.onnx_file import OnnxFile, read_exported
from qkd_deploy.runtimes.runtime import Runtime
from qkd_deploy.verification.runnable import require_runnable
from qkd_deploy.verification.runtime import DEFAULT, RuntimeModel


@dataclass(frozen=True)
class DecodeFile:
    """A decode file that the gate has let through.

    Attributes:
        file: its bytes and what they say.
        metadata: what it says of itself; None where it does not claim to be a decode file.
        runtime: runs it.
    """

    file: OnnxFile
    metadata: DecodeMetadata | None
    runtime: Runtime = DEFAULT

    @cached_property
    def session(self) -> RuntimeModel:
        """The file, loaded.

        Raises:
            UserError: the runtime cannot load it.
        """
        return RuntimeModel(self.file.model, runtime=self.runtime)

    def run(self, maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The network's outputs by name, from what the integer file gives.

        Raises:
            UserError: the maps do not fit the file.
        """
        return self.session.run(maps)


def decode_beside(file: OnnxFile, record: DecodeRecord | None) -> DecodeFile | None:
    """Read the decode file of an integer file: the one of its own name, or that which it names; None without one.

    Raises:
        UserError: it is none that ``export`` wrote, or takes more time or memory than a model may; names it.
    """
    if record is None or not record.file:
        return None
    named = (decode_path(file.path), file.path.with_name(record.file))
    path = next((path for path in named if path.exists()), None)
    if path is None:
        return None
    try:
        found = read_exported(path)
        metadata = read_decode_metadata(found.model)
        require_runnable(found, ())
    except UserError as error:
        raise UserError(f"the decode file {path.name}: {error}") from error
    return DecodeFile(found, metadata)
