"""``voc:PATH``: the layout of Pascal VOC, with one XML file for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.data.sets.assemble import Options
from qkd_deploy.data.sets.detection.assemble import Part, boxed
from qkd_deploy.data.sets.detection.boxes import Boxes, Row
from qkd_deploy.data.sets.detection.problems import Problems
from qkd_deploy.data.sets.detection.voc_xml import Annotation, read_voc
from qkd_deploy.data.sets.files import image_files, is_visible, read_lines
from qkd_deploy.errors import UserError, unreadable

_IMAGES, _ANNOTATIONS, _LISTS = "JPEGImages", "Annotations", "ImageSets/Main"
_DIVISIONS = (("train", "val"), ("trainval", "test"), ("train", "test"), ("trainval",), ("train",))
"""Lists of training and of held-out images, the first ones that are there with annotations."""


def voc(path: Path, options: Options) -> ImageDataset:
    """Read ``JPEGImages``, ``Annotations`` and the lists in ``ImageSets/Main``.

    ``train`` and ``val`` are used, or else ``trainval`` and ``test``; of a single list, or of all images where there
    are no lists, every fifth is held out. Objects that are marked "difficult" become crowds. Classes are in the order
    of their names.

    Raises:
        UserError: files are missing or damaged, or as `boxed`.
    """
    root = _root(path)
    name = f"voc:{root.resolve().name}"
    problems = Problems(name, options.strict)
    images = {Path(image.name).stem: image.relative_to(root).as_posix() for image in image_files(root / _IMAGES)}
    read = [_read(root, stems, images, problems) for stems in _division(root)]
    classes = tuple(sorted({item.label for annotations in read for known in annotations for item in known.objects}))
    if not classes:
        reason = f" ({problems.first})" if problems.first else ""
        raise UserError(f"{name} has no objects{reason}; check the path")
    return boxed(name, root, [_part(annotations, classes) for annotations in read], classes, options, problems)


def _root(path: Path) -> Path:
    """Find the folder of the layout: the path itself, or the only one in it."""
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; give the one that holds {_IMAGES} after 'voc:'")
    try:
        below = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and is_visible(entry.name)]
    except OSError as error:
        raise unreadable(path, error) from error
    found = [folder for folder in (path, *below) if all((folder / own).is_dir() for own in (_IMAGES, _ANNOTATIONS))]
    if path in found[:1] or len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{path} holds {len(found)} data sets; name one, voc:PATH/{found[0].name}")
    raise UserError(f"{path} holds no folders {_IMAGES} and {_ANNOTATIONS}; check the path after 'voc:'")


def _division(root: Path) -> list[list[str]]:
    """List the names, without their suffix, of training and of held-out images, or of all."""
    files = {name: root / _LISTS / f"{name}.txt" for division in _DIVISIONS for name in division}
    lists = {name: [line.split()[0] for line in read_lines(file)] for name, file in files.items() if file.is_file()}
    annotated = {name for name, stems in lists.items() if any(_annotation(root, stem).is_file() for stem in stems)}
    for division in _DIVISIONS:
        if annotated.issuperset(division):
            return [lists[name] for name in division]
    return [sorted(file.stem for file in (root / _ANNOTATIONS).glob("*.xml") if is_visible(file.name))]


def _annotation(root: Path, stem: str) -> Path:
    return root / _ANNOTATIONS / f"{stem}.xml"


def _read(root: Path, stems: Sequence[str], images: Mapping[str, str], problems: Problems) -> list[Annotation]:
    """Read the annotations of images that are there."""
    read = []
    for stem in dict.fromkeys(stems):
        if stem not in images:
            problems.add("images that are not there", stem)
        elif not _annotation(root, stem).is_file():
            problems.add("images without annotation", stem)
        else:
            found = read_voc(_annotation(root, stem), images[stem], problems)
            read += [] if found is None else [found]
    return read


def _part(annotations: Sequence[Annotation], classes: Sequence[str]) -> Part:
    numbers = {label: number for number, label in enumerate(classes)}
    rows: list[Row] = [
        (image, numbers[item.label], *item.corners, item.difficult)
        for image, annotation in enumerate(annotations)
        for item in annotation.objects
    ]
    return Part.of([known.image for known in annotations], Boxes.of(rows), [known.declared for known in annotations])
