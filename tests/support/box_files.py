"""Writes small data sets with boxes for tests, in the formats COCO, YOLO and Pascal VOC, with the same content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from image_files import Size, write

Box = tuple[str, float, float, float, float]
"""Class, and corners x1, y1, x2, y2 in pixels."""
CLASSES = ("cat", "dog")
SIZES: dict[str, Size] = {"a": (32, 16), "b": (16, 32), "c": (64, 64), "d": (16, 16), "e": (32, 32)}
"""Images of the training part: a to c; held out: d and e."""
BOXES: dict[str, tuple[Box, ...]] = {
    "a": (("dog", 2, 3, 10, 9), ("cat", 8, 4, 30, 16)),
    "b": (("cat", 0, 0, 16, 32), ("dog", 4, 8, 8, 24)),
    "c": (),
    "d": (("dog", 1, 2, 3, 5),),
    "e": (("cat", 4, 4, 12, 20), ("dog", 4, 4, 12, 20)),
}
PARTS: dict[str, str] = {"train": "abc", "val": "de"}


def write_images(root: Path, folder: str) -> None:
    """Write the images of both parts, into ``folder`` with ``{}`` for the part."""
    for part, names in PARTS.items():
        for number, name in enumerate(names):
            write(root / folder.format(part) / f"{name}.png", number, SIZES[name])


def coco_content(names: str) -> dict[str, Any]:
    """What a COCO JSON file says of some images; ids of classes are 7 and 3."""
    images = [{"id": ord(n), "file_name": f"{n}.png", "width": SIZES[n][0], "height": SIZES[n][1]} for n in names]
    boxes = [(name, *box) for name in names for box in BOXES[name]]
    annotations = [
        {
            "id": number,
            "image_id": ord(name),
            "category_id": {"cat": 3, "dog": 7}[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "iscrowd": 0,
            "segmentation": [[x1, y1, x2, y1, x2, y2]],
        }
        for number, (name, label, x1, y1, x2, y2) in enumerate(boxes)
    ]
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path, changed: Mapping[str, Any] | None = None) -> Path:
    """``annotations/instances_*2017.json`` beside folders of images; ``changed`` holds contents by part."""
    write_images(root, "{}2017")
    (root / "annotations").mkdir(exist_ok=True)
    for part, names in PARTS.items():
        content = (changed or {}).get(part, coco_content(names))
        text = content if isinstance(content, str) else json.dumps(content)
        (root / "annotations" / f"instances_{part}2017.json").write_text(text)
    return root


def yolo_rows(name: str) -> list[str]:
    """The label file of an image."""
    width, height = SIZES[name]
    rows = []
    for label, x1, y1, x2, y2 in BOXES[name]:
        shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        rows.append(" ".join(map(str, (CLASSES.index(label), *shares))))
    return rows


def write_yolo(root: Path, names: str = "names: [cat, dog]\n") -> Path:
    """``images/*`` and ``labels/*`` with a data.yaml; images without objects have no label file."""
    write_images(root, "images/{}")
    for part, letters in PARTS.items():
        (root / "labels" / part).mkdir(parents=True, exist_ok=True)
        for name in letters:
            if BOXES[name]:
                (root / "labels" / part / f"{name}.txt").write_text("\n".join(yolo_rows(name)))
    if names:
        (root / "data.yaml").write_text(f"train: images/train\nval: images/val\n{names}")
    return root


def voc_text(name: str, difficult: int = 0) -> str:
    """The annotation of an image, whose pixels are counted from 1."""
    objects = "".join(
        f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1 + 1}</xmin>"
        f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for label, x1, y1, x2, y2 in BOXES[name]
    )
    width, height = SIZES[name]
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>other.jpg</filename>{size}{objects}</annotation>"


def write_voc(root: Path) -> Path:
    """``JPEGImages``, ``Annotations`` and lists of both parts."""
    write_images(root, "JPEGImages")
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for part, names in PARTS.items():
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            (root / "Annotations" / f"{name}.xml").write_text(voc_text(name))
    return root


WRITERS = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}
