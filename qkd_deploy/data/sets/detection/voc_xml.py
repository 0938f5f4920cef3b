"""Read one Pascal VOC annotation: an XML file with an object for each box."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from qkd_deploy.data.sets.detection.problems import Problems
from qkd_deploy.errors import UserError

_MOST_BYTES = 2**22
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """An object of an annotation.

    Attributes:
        label: name of its class.
        corners: x1, y1, x2, y2, in pixels from 0.
        difficult: neither to be found nor wrong.
    """

    label: str
    corners: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class Annotation:
    """What a file says of an image.

    Attributes:
        image: its name, from the root of the data set.
        objects: in it.
        declared: width and height, 0 where the file does not tell.
    """

    image: str
    objects: tuple[VocObject, ...]
    declared: tuple[int, int]


class _Damaged(Exception):
    """The file is no annotation; the text says why."""


def read_voc(path: Path, image: str, problems: Problems) -> Annotation | None:
    """Read an annotation; None where it is damaged.

    Args:
        path: of the file.
        image: name of its image.
        problems: take notice of what is left out.

    Raises:
        UserError: the file declares a document type, which could make it endless; or a problem, where problems are
            errors.
    """
    try:
        root = _tree(path)
    except (OSError, _Damaged) as error:
        problems.add("annotations that cannot be read", f"{path.name} ({getattr(error, 'strerror', None) or error})")
        return None
    size = root.find("size")
    declared = (_length(size, "width"), _length(size, "height"))
    return Annotation(image, tuple(_objects(root, path.name, problems)), declared)


def _tree(path: Path) -> Element:
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise _Damaged(f"more than {_MOST_BYTES >> 20} MiB")
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise UserError(f"{path} declares a document type, which annotations do not need; take that out of the file")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter two: an encoding that is none
        raise _Damaged(f"no XML: {error}") from error
    root: Element = builder.close()
    if root.tag != "annotation":
        raise _Damaged("no annotation")
    return root


def _objects(root: Element, name: str, problems: Problems) -> Iterator[VocObject]:
    for item in root.findall("object"):
        label, box = (item.findtext("name") or "").strip(), item.find("bndbox")
        if not label or box is None:
            problems.add("objects without name or box", name)
            continue
        try:
            left, top, right, bottom = (float(box.findtext(side) or "") for side in _SIDES)
        except ValueError:
            problems.add("boxes that are not four numbers", name)
            continue
        # the format counts pixels from 1, and its last pixel is in the box
        yield VocObject(label, (left - 1, top - 1, right, bottom), (item.findtext("difficult") or "").strip() == "1")


def _length(size: Element | None, key: str) -> int:
    text = "" if size is None else (size.findtext(key) or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
