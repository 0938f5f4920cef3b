"""Open data sets by name: a new one is a file in ``sets/`` and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Any

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.resize import resized
from qkd_deploy.data.sets.arrays import array_dataset
from qkd_deploy.data.sets.assemble import Options
from qkd_deploy.data.sets.cifar import cifar10, cifar100
from qkd_deploy.data.sets.detection.coco import coco
from qkd_deploy.data.sets.detection.voc import voc
from qkd_deploy.data.sets.detection.yolo import yolo
from qkd_deploy.data.sets.digits import digits
from qkd_deploy.data.sets.hugging_face import hugging_face
from qkd_deploy.data.sets.image_folder import image_folder
from qkd_deploy.data.sets.masks import masks_folder
from qkd_deploy.data.sets.tiny_imagenet import tiny_imagenet
from qkd_deploy.errors import UserError, require_kind
from qkd_deploy.factory import Factory, build
from qkd_deploy.tasks.named import AUTO, task_named

DATASETS: dict[str, Factory] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "tiny-imagenet": tiny_imagenet,
}
"""Data sets with a name; further ones are named by a path (``_opened``)."""
_FOLDER, _MASKS, _HUGGING_FACE, _ARRAYS = "imagefolder:", "masks:", "hf:", ".npz"
_OF_PATHS: Mapping[str, Callable[[Path, Options], ImageDataset]] = {
    _FOLDER: image_folder,
    "coco:": coco,
    "yolo:": yolo,
    "voc:": voc,
}
"""Readers of files, by what stands in front of their path."""


def dataset_names() -> list[str]:
    """List the names of data sets that `load_dataset` knows."""
    return list(DATASETS)


def is_own_code(name: str) -> bool:
    """True where a name is ``package.module:factory``, which is imported to open the data set."""
    prefixes = (_HUGGING_FACE, _MASKS, *_OF_PATHS)
    return ":" in name and not name.startswith(prefixes) and not name.endswith(_ARRAYS)


def load_dataset(
    name: str,
    data_dir: Path | str | None = None,
    *,
    image_size: int = 0,
    workers: int = 2,
    strict: bool = False,
    classes: int = 0,
    interpolation: str = "bilinear",
    crop_pct: float = 0.0,
    input_range: int = 0,
    fit: str = "",
    task: str = AUTO,
    args: Mapping[str, Any] | None = None,
) -> ImageDataset:
    """Open a data set: small ones in memory (CPU, uint8), big ones as streams.

    Args:
        name: one of `dataset_names`, ``imagefolder:PATH``, ``masks:PATH``, ``coco:PATH``, ``yolo:PATH``,
            ``voc:PATH``, ``FILE.npz``, ``hf:NAME_OR_PATH``, or ``package.module:factory``; the user's factory receives
            ``data_dir`` if its signature accepts it, and must return an `ImageDataset`.
        data_dir: where the files lie; relative paths in ``name`` start there. Not needed by "digits", which is
            embedded, nor by "cifar10" and "cifar100", which are downloaded where they are missing.
        image_size: height and width that images are brought to; 0 keeps the data's own.
        workers: processes that decode image files; 0 decodes in this one, with the same result.
        strict: an image file that cannot be read is an error instead of being left out.
        classes: number of classes where the data do not tell.
        interpolation: of image files that are resized, "bilinear" or "bicubic".
        crop_pct: for evaluation on image files, the share of the resized short side that the crop in the middle
            leaves, as timm says it; 0 takes the largest box of the wanted proportions.
        input_range: the value of 16-bit greys that becomes 255, such as 4095 for a sensor of 12 bits; 0 is 65535, and
            images that look as if it were less are refused.
        fit: how image files of other proportions come to ``image_size``: "crop", "letterbox" or "stretch"; "" is what
            suits the data set.
        task: "classification", "segmentation", "detection" or ``package.module:Class``, where it is another one than
            that of the data set ("auto"); the targets must be the task's.
        args: keyword arguments of the user's factory; or ``image``, ``label`` and ``config`` of Hugging Face data; or
            ``ignore``, ``scale``, ``size``, ``names`` and ``held_out`` of masks.

    Raises:
        UserError: an unknown name, missing, damaged or dangerous files, or a factory that cannot be imported,
            called, or returns something else.
    """
    require_kind(name, str, "the data set", f"give a name such as 'digits', or {_FOLDER}PATH")
    require_kind(data_dir, (str, PathLike, NoneType), "data_dir", "give the path of a folder")
    data_dir = None if data_dir is None else Path(data_dir)
    options = Options(image_size, workers, strict, classes, interpolation, crop_pct, input_range, fit)
    dataset = _opened(name, data_dir, options, dict(args or {}))
    dataset = resized(dataset, image_size) if image_size else dataset
    return dataset if task == AUTO else replace(dataset, task=task_named(task))


def _opened(name: str, data_dir: Path | None, options: Options, args: dict[str, Any]) -> ImageDataset:
    folder = data_dir if data_dir is not None else Path()
    if name.startswith(_HUGGING_FACE):
        return hugging_face(name.removeprefix(_HUGGING_FACE), folder, options, args)
    if name.startswith(_MASKS):
        return masks_folder(folder / name.removeprefix(_MASKS), options, args)
    for prefix, reader in _OF_PATHS.items():
        if name.startswith(prefix):
            return _of_path(reader, name, folder / name.removeprefix(prefix), options, args)
    if name.endswith(_ARRAYS):
        return _of_path(array_dataset, name, folder / name, options, args)
    return _built(name, data_dir, options, args)


def _of_path(
    reader: Callable[[Path, Options], ImageDataset], name: str, path: Path, options: Options, args: dict[str, Any]
) -> ImageDataset:
    if args:
        raise UserError(f"{name} takes no argument '{min(args)}'; leave it out")
    return reader(path, options)


def _built(name: str, data_dir: Path | None, options: Options, args: dict[str, Any]) -> ImageDataset:
    # What the package's own data sets are offered beyond the folder is no business of a user's factory.
    own = {"options": options} if name in DATASETS else {}
    dataset = build("data set", name, DATASETS, args, data_dir=data_dir, **own)
    if not isinstance(dataset, ImageDataset):
        raise UserError(f"{name} returned a {type(dataset).__name__}; a data set factory must return an ImageDataset")
    return dataset
