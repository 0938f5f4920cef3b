"""Files that are no weights in PyTorch's format, called what they are, with the way to weights that can be read."""

from __future__ import annotations

import shlex
import zipfile
from pathlib import Path
from typing import BinaryIO

from qkd_deploy.errors import UserError

_BEGINNINGS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; fetch that with git lfs pull",
    b"<!doctype html": "is a web page, as a failed download leaves one; download the file again",
    b"<html": "is a web page, as a failed download leaves one; download the file again",
    b"\x89hdf": "is an HDF5 file, as Keras writes them; give weights of PyTorch",
    b"\x1f\x8b": "is compressed by gzip; unpack it, as in a shell: gunzip < {} > weights.pt",
}
"""How files begin, in lower case."""
_SCRIPT, _PROGRAM = "constants.pkl", "archive_format"
"""Records of the zip files that TorchScript and ``torch.export`` write."""


def require_weights_file(file: BinaryIO, source: Path | str) -> None:
    """Refuse a file of a known kind that is not what ``torch.save`` writes, or whose content would grow when unpacked.

    Args:
        file: at its beginning; is left anywhere.
        source: its name, for messages.

    Raises:
        UserError: names the kind, and what to do.
    """
    beginning = file.read(64)
    for known, sentence in _BEGINNINGS.items():
        if beginning.lstrip().lower().startswith(known):
            raise UserError(f"{source} {sentence.format(shlex.quote(str(source)))}")
    if beginning[8:10] == b'{"':
        raise UserError(f"{source} is a safetensors file by its content; give it the suffix .safetensors")
    if zipfile.is_zipfile(file):
        _require_records(file, source)


def _require_records(file: BinaryIO, source: Path | str) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise UserError(f"{source} is damaged: its list of records cannot be read; use another file") from error
    records = {entry.filename.rpartition("/")[2] for entry in entries}
    if _SCRIPT in records:
        raise UserError(
            f"{source} is a TorchScript file, a program with its weights; save these alone, in Python: "
            f"torch.save(torch.jit.load({str(source)!r}).state_dict(), 'weights.pt')"
        )
    if _PROGRAM in records:
        raise UserError(
            f"{source} is a file of torch.export, a program with its weights; save these alone, in Python: "
            f"torch.save(torch.export.load({str(source)!r}).state_dict, 'weights.pt')"
        )
    size = file.seek(0, 2)
    if any(entry.compress_type for entry in entries) or sum(entry.file_size for entry in entries) > size:
        raise UserError(f"{source} is packed otherwise than torch.save packs weights; save them again with torch.save")
