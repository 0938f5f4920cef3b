"""``hf:NAME_OR_PATH``: image data sets of Hugging Face's ``datasets`` library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.images.decode import Unreadable, open_image
from qkd_deploy.data.sets.assemble import Options, Parts, assemble, unlabelled, unnamed_classes, without_split
from qkd_deploy.errors import UserError

HELD_OUT_SPLITS = ("test", "validation", "valid", "val")
_ARGUMENTS = ("image", "label", "config")


@dataclass(frozen=True)
class Rows:
    """A source of images: encoded in a column of one or more tables, one after the other.

    Attributes:
        tables: of the ``datasets`` library.
        names: what the tables are called.
        column: holds the images, as bytes or as paths.
    """

    tables: tuple[Any, ...]
    names: tuple[str, ...]
    column: str

    def __len__(self) -> int:
        return sum(map(len, self.tables))

    def open(self, index: int) -> Image.Image:
        """Decode an image, or raise `Unreadable`."""
        number, row = self._place(index)
        cell = self.tables[number][row][self.column]
        if not cell or (cell.get("bytes") is None and not cell.get("path")):
            raise Unreadable("an empty cell")
        return open_image(cell["bytes"] if cell.get("bytes") is not None else Path(cell["path"]))

    def name_of(self, index: int) -> str:
        """Name an image by its table and row."""
        number, row = self._place(index)
        return f"{self.names[number]}[{row}]"

    def identity_of(self, index: int) -> str:
        """Identify an image by its row and the library's fingerprint of the table."""
        number, row = self._place(index)
        return f"{self.tables[number]._fingerprint} {row}"

    def _place(self, index: int) -> tuple[int, int]:
        for number, table in enumerate(self.tables):
            if index < len(table):
                return number, index
            index -= len(table)
        raise IndexError(index)


def hugging_face(name: str, folder: Path, options: Options, args: Mapping[str, Any]) -> ImageDataset:
    """Open a data set by its name on the hub, or from a folder (of ``save_to_disk``, or with image or parquet files).

    Args:
        name: a path from ``folder``, or else a name on the hub.
        folder: where relative paths start.
        options: size of the images and so on.
        args: ``image`` and ``label`` name the columns (by default, the first ones of these types), ``config`` a
            configuration of the data set.

    Raises:
        UserError: the library is not installed, the data cannot be loaded, or have no such columns.
    """
    unknown = sorted(set(args) - set(_ARGUMENTS))
    if unknown:
        raise UserError(f"hf:{name} takes no argument '{unknown[0]}'; it takes {', '.join(_ARGUMENTS)}")
    path = folder / name
    title = f"hf:{path.resolve().name}" if path.is_dir() else f"hf:{name}"
    splits = _load(title, name, path, args.get("config"))
    used = _used_splits(list(splits))
    tables = [splits[split] for split in used]
    image = _column(title, tables[0], "Image", args.get("image"))
    if image is None:
        raise UserError(f"{title} has no column of images; name one with the argument image")
    label = _column(title, tables[0], "ClassLabel", args.get("label"))
    labels = [_labels(title, table, label) for table in tables]
    classes = _class_names(title, tables[0], label, labels, options.classes)
    source = Rows(tuple(_encoded(table, image) for table in tables), tuple(used), image)
    if len(used) == 1:
        return assemble(title, source, without_split(title, labels[0], classes), options)
    border = len(labels[0])
    parts = Parts(torch.cat(labels), torch.arange(border), torch.arange(border, len(source)), classes)
    return assemble(title, source, parts, options)


def _used_splits(splits: list[str]) -> list[str]:
    """Choose the split to train on, and the one to hold out where there is another one for it."""
    held_out = [split for split in HELD_OUT_SPLITS if split in splits][:1]
    others = [split for split in splits if split not in held_out]
    train = "train" if "train" in splits else [*others, *splits][0]
    return [train, *(split for split in held_out if split != train)]


def _load(title: str, name: str, path: Path, config: object) -> dict[str, Any]:
    """Load the tables by split, without empty ones."""
    loaded = _from_library(title, name, path, config)
    tables = dict(loaded) if isinstance(loaded, Mapping) else {"train": loaded}
    filled = {split: table for split, table in tables.items() if len(table)}
    if not filled:
        raise UserError(f"{title} has no rows; name another data set")
    return filled


def _from_library(title: str, name: str, path: Path, config: object) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"{title} needs the library datasets; pip install 'qkd-deploy[huggingface]'") from error
    saved = path.is_dir() and any((path / mark).is_file() for mark in ("dataset_dict.json", "state.json"))
    try:
        if saved:
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path) if path.is_dir() else name, config)
    except Exception as error:  # the library has no common error for what can be wrong with data or connection
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UserError(f"cannot load {title} ({reason}); check the name or the path, and the connection") from error


def _column(title: str, table: Any, kind: str, wanted: object) -> str | None:
    """Find the wanted column, or the first one of that type."""
    if wanted is None:
        return next((name for name, feature in table.features.items() if type(feature).__name__ == kind), None)
    if wanted not in table.features:
        raise UserError(f"{title} has no column '{wanted}'; its columns are {', '.join(table.features)}")
    return str(wanted)


def _labels(title: str, table: Any, column: str | None) -> torch.Tensor:
    if column is None or column not in table.features:
        return unlabelled(len(table))
    numbers = np.asarray(table.with_format("numpy")[column][:])
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise UserError(f"the column {column} of {title} holds no class numbers; name another one as label")
    return torch.from_numpy(numbers.astype(np.int64))


def _class_names(
    title: str, table: Any, column: str | None, labels: list[torch.Tensor], wanted: int
) -> tuple[str, ...]:
    named = getattr(table.features[column], "names", None) if column is not None else None
    if named:
        return tuple(named)
    return unnamed_classes(title, max(wanted, *(int(part.max()) + 1 for part in labels)))


def _encoded(table: Any, column: str) -> Any:
    """Select the column alone, its images left encoded."""
    import datasets

    return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
