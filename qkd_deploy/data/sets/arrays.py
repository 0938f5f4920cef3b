"""``FILE.npz``: images and labels as plain arrays in one file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from qkd_deploy.data.augment.presets import usual
from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.sets.assemble import Options, unlabelled, unnamed_classes
from qkd_deploy.data.sets.held_out import divided
from qkd_deploy.data.split import Split
from qkd_deploy.errors import UserError

_UNPACKED_BYTES = 2**31
_PACKING = 4
"""Archives of more bytes than the former are read where they are packed by less than this factor."""
_EXPECTED = "x_train, y_train, x_test and y_test, or images and labels"


def read_arrays(path: Path | str) -> np.ndarray | dict[str, np.ndarray]:
    """Read the array of a ``.npy`` file, or the arrays of an ``.npz`` file by name. Pickled objects are never loaded.

    Raises:
        UserError: the file is missing, unreadable, damaged, of another kind, or holds pickled objects.
    """
    file = Path(path)
    _require_size(file)
    try:
        content = np.load(file, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            return {name: content[name] for name in content.files}
    except FileNotFoundError as error:
        raise UserError(f"there is no file {file}; write one with numpy.save") from error
    except OSError as error:
        raise _unreadable(file, error.strerror or str(error)) from error
    except Exception as error:  # numpy has no common error for what is wrong in a file
        raise UserError(
            f"{file} holds no plain arrays (it is damaged, of another kind, or has pickled objects); "
            "write it with numpy.save and allow_pickle=False"
        ) from error


def _require_size(file: Path) -> None:
    """Refuse what cannot be read whole, before it is: a pipe, and archives that unpack to far more than they are.

    Raises:
        UserError: such a file.
    """
    if file.exists() and not file.is_file():
        raise _unreadable(file, "it is no regular file")
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # numpy says that it is damaged
    if unpacked > max(_UNPACKED_BYTES, _PACKING * file.stat().st_size):
        raise UserError(
            f"{file} unpacks to {unpacked / 1e9:,.1f} GB, which is not kept in memory; write fewer, or write images to "
            "a folder and read imagefolder:PATH"
        )


def _unreadable(file: Path, reason: str) -> UserError:
    return UserError(f"cannot read {file}: {reason}; give a .npy or .npz file")


def array_dataset(path: Path, options: Options) -> ImageDataset:
    """Read ``x_train, y_train, x_test, y_test``, or ``images, labels``, of which every fifth image is held out.

    Images are uint8 [N, H, W, C], [N, C, H, W] (C is 1 or 3) or [N, H, W]; labels are whole numbers [N] or [N, 1], and
    may be left out. An array ``classes`` of text names the classes; without it they are called "0", "1", ...

    Raises:
        UserError: the file cannot be read, or holds other arrays than these.
    """
    content = read_arrays(path)
    name = path.name
    if not isinstance(content, dict):
        raise UserError(f"{name} holds one array without a name; write {_EXPECTED} with numpy.savez")
    if "x_train" in content and "x_test" in content:
        train, test = _split(name, content, "x_train", "y_train"), _split(name, content, "x_test", "y_test")
    elif "images" in content:
        whole = _split(name, content, "images", "labels")
        train, test = (Split(whole.images[part], whole.labels[part]) for part in divided(name, whole.labels))
    else:
        raise UserError(f"{name} holds {', '.join(sorted(content)) or 'nothing'}; write {_EXPECTED} with numpy.savez")
    classes = _classes(name, content.get("classes"), (train, test), options.classes)
    return ImageDataset(name, train, test, classes, augmentation=usual(train.image_shape[1]))


def _split(name: str, content: dict[str, np.ndarray], images: str, labels: str) -> Split:
    pixels = _channels_first(name, images, content[images])
    if labels not in content:
        return Split(pixels, unlabelled(len(pixels)))
    return Split(pixels, _class_numbers(name, labels, content[labels]))


def _class_numbers(name: str, key: str, numbers: np.ndarray) -> torch.Tensor:
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise UserError(f"{key} in {name} is {numbers.dtype} {list(numbers.shape)}; write whole numbers [N]")
    return torch.from_numpy(numbers.astype(np.int64))


def _channels_first(name: str, key: str, images: np.ndarray) -> torch.Tensor:
    """Bring images into the form [N, C, H, W]; where both ends could be channels, the last one is taken."""
    if images.dtype != np.uint8:
        raise UserError(f"{key} in {name} is {images.dtype}; write the raw pixels as uint8, 0 to 255")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(f"{key} in {name} has the shape {list(images.shape)}; write [N, H, W, C] with 1 or 3 channels")
    return torch.from_numpy(np.ascontiguousarray(images))


def _classes(name: str, names: np.ndarray | None, splits: tuple[Split, Split], wanted: int) -> tuple[str, ...]:
    if names is not None:
        return tuple(str(text) for text in names.ravel())
    known = max(int(split.labels.max()) for split in splits) + 1
    return unnamed_classes(name, max(known, wanted))
