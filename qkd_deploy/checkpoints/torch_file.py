"""Files of ``torch.save``: ours are sealed when they are written; none runs code when it is read."""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from qkd_deploy.atomic import atomic_write
from qkd_deploy.checkpoints.file_kinds import require_weights_file
from qkd_deploy.checkpoints.foreign_objects import load_as_data
from qkd_deploy.checkpoints.seal import Digests, digests, sealed
from qkd_deploy.checkpoints.weights_file import WeightsFile, is_folder, missing, weights_file
from qkd_deploy.errors import UserError, unreadable

_SEALED = "sealed"
"""The entry that says inside of a file that it has a seal: without it, damage to the seal itself would not be told."""


class TorchFile(NamedTuple):
    """The content of a file of ``torch.save``, and what its digests say of the bytes that it was read from."""

    content: Any
    digests: Digests


def save_tensors(path: Path | str, content: Mapping[str, Any]) -> None:
    """Save as ``torch.save`` does, with a seal: either the whole new file or the old one; equal contents, equal bytes.

    Raises:
        UserError: the file cannot be written, as on a full disk.
    """
    buffer = io.BytesIO()  # given a file, torch's writer would hide the operating system's error
    torch.save({**content, _SEALED: True}, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(sealed(buffer.getvalue()))


def read_tensors(path: Path | str) -> Any:
    """Read the content of a file of ``torch.save``, as ``read_torch_file`` does."""
    return read_torch_file(path).content


def read_torch_file(path: Path | str) -> TorchFile:
    """Read a file written by ``torch.save``, if it holds only tensors and plain data; also ``FILE.whl:path/in/it.pth``.

    Raises:
        UserError: the file is missing or unreadable, differs from its seal, is damaged or of another kind, or wants to
            run code.
    """
    file, found = Path(path), weights_file(path)
    try:
        if file.is_dir():
            raise is_folder(file)
        with _opened(found) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles, which end in an error anyway
            known = digests(stream, file)
            stream.seek(0)
            require_weights_file(stream, file)
            stream.seek(0)
            content = load_as_data(stream)
    except FileNotFoundError as error:
        raise missing(file) from error
    except PermissionError as error:
        raise unreadable(file, error) from error
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(file, str(error), zipped=zipfile.is_zipfile(file))) from error
    except UserError:
        raise
    except Exception as error:  # torch.load has no common error for damaged files
        raise UserError(f"{file} is damaged or was not written by torch.save; use another file") from error
    if not known.sealed and isinstance(content, Mapping) and content.get(_SEALED) is True:
        raise UserError(f"{file} is damaged: it has lost the digest of its content; use another copy of it")
    return TorchFile(content, known)


def _refusal(file: Path, reason: str, *, zipped: bool) -> str:
    """Say what is in the way of reading a file, and how to get the weights out of it."""
    named, other_protocol = (
        re.search(r"GLOBAL ([\w.]+(?: or [\w.]+)*)", reason),
        zipped and "Unsupported operand" in reason,
    )
    if named is not None and reason.endswith("runs code"):
        return (
            f"{file} is refused: it wants to run code, {named[1]}; use a checkpoint of qkd-deploy or a plain state_dict"
        )
    if named is not None and reason.endswith("as data"):
        return (
            f"{file} is refused: it holds a {named[1]}, which only its own code can read; load it where you trust that "
            "code, and save a plain state_dict"
        )
    if named is None and not other_protocol:
        return f"{file} is refused: it is damaged, or no file of torch.save; use a checkpoint or a plain state_dict"
    what = "is in another protocol of pickle" if named is None else f"holds a {named[1]} in PyTorch's older format"
    return (
        f"{file} is refused: it {what}, which cannot be read without running code; where you trust it, save it anew in "
        f"Python: torch.save(torch.load({str(file)!r}, map_location='cpu', weights_only=False), 'weights.pt')"
    )


def _opened(found: WeightsFile) -> BinaryIO:
    content = found.content()
    return content.open("rb") if isinstance(content, Path) else content
