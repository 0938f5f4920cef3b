"""Which number of a mask is which class: tables of names and colours, and numbers that count nowhere."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qkd_deploy.data.images.masks import LARGEST, Colour, Numbers, table_of
from qkd_deploy.data.sets.files import read_lines
from qkd_deploy.errors import UserError, closest
from qkd_deploy.tasks.segmentation import IGNORED, MOST_CLASSES

TABLES = ("classes.txt", "class_names.txt", "class_dict.csv", "label_colors.txt", "labelmap.txt")
"""Files beside the folders that are read as tables of classes; the first one that is there."""
_COLOUR = re.compile(r"(?<![\d.])(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})(?![\d.])")
_AROUND = " \t,;:\"'"


@dataclass(frozen=True)
class ClassTable:
    """The rows of a table of classes, in the order of their numbers.

    Attributes:
        names: of all rows.
        colours: red, green and blue of each row; empty where the table gives none.
    """

    names: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()


@dataclass(frozen=True)
class Numbering:
    """What the numbers of masks mean.

    Attributes:
        classes: names.
        labels: uint8 [256], from the numbers of files to class numbers and ``IGNORED``.
        remarks: sentences for the user.
    """

    classes: tuple[str, ...]
    labels: Mapping[int, int]
    remarks: tuple[str, ...] = ()

    def table(self) -> Numbers:
        """Make an array uint8 [256] of the class number of every number."""
        return table_of(self.labels, IGNORED)


def class_table(folder: Path, named: str) -> ClassTable:
    """Read the table that the user names, or one of `TABLES` where there is one.

    A line is a name alone, or a name and three numbers 0..255 for its colour, in any order and with commas, colons,
    tabs or blanks between them; a class without a name is called by its number. A first line without numbers above
    lines with them is a heading; lines that begin with "#" are comments.

    Raises:
        UserError: there is no such file, it cannot be read, or only some of its lines have colours.
    """
    path = folder / named if named else next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if path is None:
        return ClassTable()
    if not path.is_file():
        raise UserError(f"there is no file {path}; name the one that lists the classes, one on a line")
    rows = [_row(line) for line in read_lines(path) if not line.startswith("#")]
    if rows and rows[0][1] is None and any(colour for _, colour in rows):
        rows = rows[1:]
    if not rows or len(rows) > LARGEST:
        raise UserError(f"{path} lists {len(rows)} classes; write 1 to {MOST_CLASSES} of them, one on a line")
    colours = tuple(colour for _, colour in rows if colour is not None)
    if colours and len(colours) < len(rows):
        bare = next(name for name, colour in rows if colour is None)
        raise UserError(f"{path} gives no colour for {bare!r}; write red, green and blue behind every class, or none")
    if len(set(colours)) < len(colours):
        twice = next(colour for colour in colours if colours.count(colour) > 1)
        raise UserError(f"{path} gives the colour {' '.join(map(str, twice))} twice; give each class its own")
    return ClassTable(tuple(name or str(number) for number, (name, _) in enumerate(rows)), colours)


def _row(line: str) -> tuple[str, Colour | None]:
    found = _COLOUR.search(line)
    if found is None:
        return line.strip(_AROUND), None
    red, green, blue = (min(int(number), LARGEST) for number in found.groups())
    before, after = line[: found.start()].strip(_AROUND), line[found.end() :].strip(_AROUND)
    return before or after, (red, green, blue)


def ignored_numbers(wanted: object, table: ClassTable) -> frozenset[int]:
    """Read the argument ``ignore``: a number of the masks, a name of the table, or a list of those.

    Raises:
        UserError: it is something else, or no name of the table.
    """
    items = wanted if isinstance(wanted, (list, tuple)) else [] if wanted is None else [wanted]
    found = set()
    for item in items:
        if isinstance(item, str) and table.names:
            if item not in table.names:
                raise UserError(f"the argument ignore names {item!r}, which is no class; {closest(item, table.names)}")
            found.add(table.names.index(item))
        elif isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= LARGEST:
            found.add(item)
        else:
            raise UserError(f"the argument ignore is {item!r}; give a number of the masks, 0 to {LARGEST}, or a class")
    return frozenset(found)


def numbering(
    name: str, found: Mapping[int, str], table: ClassTable, classes: int, ignored: Collection[int]
) -> Numbering:
    """Say what each number of the masks means: classes are the numbers from 0 that are not ignored, closed up.

    Args:
        name: of the data set.
        found: the numbers that occur, each with a file that has it.
        table: of classes, perhaps empty.
        classes: how many there are, where no table tells; 0 takes the numbers up to the largest one that occurs.
        ignored: numbers that count nowhere; 255 always does, but where masks hold nothing else than 0 and 255.

    Raises:
        UserError: a number is that of no class, or there are fewer than two.
    """
    binary = set(found) == {0, LARGEST} and not ignored
    if binary and len(table.names or "ab") == 2:
        remark = "the masks hold 0 and 255 alone, which are taken for two classes"
        return Numbering(table.names or ("0", "1"), {0: 0, LARGEST: 1}, (remark,))
    without = {*ignored, LARGEST}
    rows = _rows(table, classes, max((value for value in found if value not in without), default=0), without)
    kept = [row for row in rows if row not in without]
    for value, file in sorted(found.items()):
        if value not in without and value not in kept:
            raise UserError(
                f"the mask {file} has the value {value}, but {name} has {len(kept)} classes; ignore it with the "
                f"argument ignore={value}, or name more classes"
            )
    if len(kept) < 2:
        raise UserError(f"the masks of {name} tell {len(kept)} classes apart; give masks of two or more classes")
    names = tuple(table.names[row] if table.names else str(row) for row in kept)
    return Numbering(names, {row: place for place, row in enumerate(kept)})


def _rows(table: ClassTable, classes: int, largest: int, without: Collection[int]) -> Sequence[int]:
    """List the numbers that classes may have."""
    if table.names:
        return range(len(table.names))
    if classes:
        return [number for number in range(LARGEST) if number not in without][:classes]
    return range(largest + 1)
