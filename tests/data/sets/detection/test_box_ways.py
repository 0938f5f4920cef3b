"""Ways out of labels of boxes that cannot be read: as the sentence recommends, they can."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from box_files import coco_content, voc_text, write_coco, write_images, write_voc, write_yolo, yolo_rows
from ways import Way, follow, require_all

from qkd_deploy.data import batches, load_dataset
from qkd_deploy.data.sets.detection import coco_json, targets

TEST = "tests/data/sets/detection/test_box_ways.py::test_the_way_out_works"
NAMES = "names: [cat, dog]\n"


def opens(name: str, **options: Any) -> None:
    """Open a data set, and find boxes to train on and others held out."""
    data = load_dataset(name, **{"workers": 0, "image_size": 32, **options})
    assert all((split.labels[:, :, 0] >= 0).any() for split in (data.train, data.test))


def coco_of(path: Path, content: object = None, **options: Any) -> None:
    """Open a COCO folder whose training JSON has that content, or that text."""
    opens(f"coco:{write_coco(path, {} if content is None else {'train': content})}", **options)


def changed(**entries: Any) -> dict[str, Any]:
    return {**coco_content("abc"), **entries}


def categories(*records: dict[str, Any]) -> dict[str, Any]:
    return changed(categories=[*coco_content("")["categories"], *records])


def yaml_of(path: Path, content: str) -> None:
    """Open a YOLO folder whose data.yaml has that content."""
    write_yolo(path)
    (path / "data.yaml").write_text(content)
    opens(f"yolo:{path}")


def moved(path: Path, old: str, new: str) -> Path:
    (path / old).rename(path / new)
    return path


def elsewhere(path: Path) -> Path:
    """A COCO JSON and its images, in a folder of another name."""
    return moved(write_coco(path), "train2017", "pictures")


def back(path: Path) -> None:
    opens(f"coco:{moved(path, 'pictures', 'train2017')}")


def two_jsons(path: Path) -> Path:
    write_images(path, "images")
    for name in "xy":
        (path / f"{name}.json").write_text(json.dumps(coco_content("abcde")))
    return path


def pipe(path: Path) -> None:
    file = write_coco(path) / "annotations" / "instances_train2017.json"
    file.unlink()
    os.mkfifo(file)
    opens(f"coco:{path}")


def regular(path: Path) -> None:
    (path / "annotations" / "instances_train2017.json").unlink()
    coco_of(path)


def limited(module: Any, name: str, value: int, action: Callable[[], object]) -> None:
    """Do something where less is allowed."""
    with pytest.MonkeyPatch.context() as limits:
        limits.setattr(module, name, value)
        action()


def no_labels(path: Path) -> None:
    opens(f"yolo:{moved(write_yolo(path), 'labels', 'texts')}")


def same_names(path: Path, names: str) -> None:
    (write_yolo(path, "") / "classes.txt").write_text(names)
    opens(f"yolo:{path}")


def two_yamls(path: Path) -> Path:
    for name in "ab":
        (write_yolo(path, "") / f"{name}.yaml").write_text(NAMES)
    return path


def document_type(path: Path, text: str = "<!DOCTYPE annotation>") -> None:
    (write_voc(path) / "Annotations" / "a.xml").write_text(text + voc_text("a"))
    opens(f"voc:{path}")


def no_annotations(path: Path) -> None:
    for file in (write_voc(path) / "Annotations").iterdir():
        file.unlink()
    opens(f"voc:{path}")


def two_vocs(path: Path) -> Path:
    for name in "ab":
        write_voc(path / name)
    return path


def wrong_row(path: Path, rows: tuple[str, ...] = ("x",), **options: Any) -> None:
    (write_yolo(path) / "labels" / "train" / "a.txt").write_text("\n".join([*yolo_rows("a"), *rows]))
    opens(f"yolo:{path}", **options)


def augmented(path: Path, name: str, batch: int = 1, processes: int = 1) -> None:
    """Make the last process's part of a batch with an augmentation."""
    data = load_dataset(f"yolo:{write_yolo(path)}", workers=0, image_size=32)
    changed = data.augmentation_named(name)
    stream = batches(data.train, batch, torch.Generator(), changed, shard=(processes - 1, processes))
    assert len(next(stream)[1])


WAYS: dict[str, Way] = {
    "three of four": Way(
        lambda p: augmented(p, "mosaic", 6, 2),
        "images into each other",
        lambda p: augmented(p, "mosaic", 8, 2),
        "a multiple of 8",
    ),
    "no box": Way(lambda p: coco_of(p, changed(annotations=[])), "has no box", lambda p: coco_of(p)),
    "crop": Way(lambda p: coco_of(p, fit="crop"), "--fit crop", lambda p: coco_of(p, fit="stretch")),
    "no image": Way(lambda p: coco_of(p, changed(images=[])), "image that can be read", lambda p: coco_of(p)),
    "no path": Way(
        lambda p: opens(f"coco:{p}/x.json"),
        "give a COCO JSON file",
        lambda p: opens(f"coco:{write_coco(p)}/annotations/instances_train2017.json"),
    ),
    "two JSONs": Way(
        lambda p: opens(f"coco:{two_jsons(p)}"), "name one of them, coco:", lambda p: opens(f"coco:{p}/x.json")
    ),
    "elsewhere": Way(lambda p: opens(f"coco:{elsewhere(p)}"), "none lies near it", back, "put them below"),
    "pipe": Way(pipe, "is no regular file; name a COCO", regular),
    "large": Way(
        lambda p: limited(coco_json, "MOST_BYTES", 500, lambda: coco_of(p)),
        "GiB; divide it",
        lambda p: limited(coco_json, "MOST_BYTES", 5000, lambda: coco_of(p)),
    ),
    "nested": Way(lambda p: coco_of(p, "[" * 100_000), "is nested too deep; name a COCO", lambda p: coco_of(p)),
    "no JSON": Way(lambda p: coco_of(p, "{"), "is no JSON", lambda p: coco_of(p)),
    "no COCO": Way(lambda p: coco_of(p, "{}"), "is no COCO JSON", lambda p: coco_of(p)),
    "nameless": Way(
        lambda p: coco_of(p, categories({"id": 4})),
        "a category without",
        lambda p: coco_of(p, categories({"id": 4, "name": "cow"})),
    ),
    "same id": Way(
        lambda p: coco_of(p, categories({"id": 3, "name": "cow"})),
        "two categories",
        lambda p: coco_of(p, categories({"id": 4, "name": "cow"})),
    ),
    "no classes": Way(lambda p: coco_of(p, changed(categories=[])), "has no categories", lambda p: coco_of(p)),
    "strict": Way(lambda p: wrong_row(p, strict=True), "correct them, or", wrong_row),
    "corrected": Way(lambda p: wrong_row(p, strict=True), "correct them, or", lambda p: wrong_row(p, (), strict=True)),
    "many boxes": Way(
        lambda p: limited(targets, "_MOST_VALUES", 59, lambda: coco_of(p)),
        "leave that image out",
        lambda p: limited(targets, "_MOST_VALUES", 60, lambda: coco_of(p)),
    ),
    "no objects": Way(no_annotations, "has no objects", lambda p: opens(f"voc:{write_voc(p)}")),
    "no VOC folder": Way(
        lambda p: opens(f"voc:{p}/x"),
        "give the one that holds {} after 'voc:'",
        lambda p: opens(f"voc:{write_voc(p)}"),
        "JPEGImages",
    ),
    "two VOCs": Way(
        lambda p: opens(f"voc:{two_vocs(p)}"), "name one, voc:", lambda p: opens(f"voc:{p}/a"), "voc:PATH/a"
    ),
    "no VOC": Way(lambda p: opens(f"voc:{p}"), "holds no folders", lambda p: opens(f"voc:{write_voc(p)}")),
    "document type": Way(document_type, "declares a document type", lambda p: document_type(p, "")),
    "no labels": Way(no_labels, "no labels for them", lambda p: opens(f"yolo:{moved(p, 'texts', 'labels')}")),
    "no data.yaml": Way(
        lambda p: opens(f"yolo:{p}/x.yaml"), "give a data.yaml", lambda p: opens(f"yolo:{write_yolo(p)}")
    ),
    "two yamls": Way(
        lambda p: opens(f"yolo:{two_yamls(p)}"),
        "several files",
        lambda p: opens(f"yolo:{p}/a.yaml"),
        "yolo:PATH/a.yaml",
    ),
    "no such folder": Way(
        lambda p: yaml_of(p, f"train: images/trein\n{NAMES}"),
        "which is not there; correct the path",
        lambda p: yaml_of(p, f"train: images/train\nval: images/val\n{NAMES}"),
    ),
    "large yaml": Way(lambda p: yaml_of(p, "#" * 300_000), "larger than 256 KiB", lambda p: yaml_of(p, NAMES)),
    "no YAML": Way(lambda p: yaml_of(p, "names: [cat"), "is no YAML file", lambda p: yaml_of(p, NAMES)),
    "no entries": Way(lambda p: yaml_of(p, "cat"), "holds no entries", lambda p: yaml_of(p, NAMES)),
    "nested yaml": Way(lambda p: yaml_of(p, "[" * 99), "nested too deep; name the data", lambda p: yaml_of(p, NAMES)),
    "references": Way(
        lambda p: yaml_of(p, "x: &x cat\nnames: [*x, dog]"), "has references", lambda p: yaml_of(p, NAMES)
    ),
    "number": Way(
        lambda p: yaml_of(p, f"train: 3\n{NAMES}"),
        "is no folder of images",
        lambda p: yaml_of(p, f"train: images/train\nval: images/val\n{NAMES}"),
    ),
    "gaps": Way(
        lambda p: yaml_of(p, "names: {0: cat, 2: dog}"),
        "does not number",
        lambda p: yaml_of(p, "names: {0: cat, 1: dog}"),
    ),
    "no names": Way(lambda p: yaml_of(p, "names: 3"), "that are no list", lambda p: yaml_of(p, NAMES)),
    "same names": Way(
        lambda p: same_names(p, "cat\ncat"), "gives two classes the same name", lambda p: same_names(p, "cat\ndog")
    ),
    "same names in yaml": Way(
        lambda p: yaml_of(p, "names: [cat, cat]"), "gives two classes the same name", lambda p: yaml_of(p, NAMES)
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_way_out_works(name: str, tmp_path: Path) -> None:
    follow(WAYS[name], tmp_path, TEST)


def test_every_sentence_has_its_way_out() -> None:
    require_all(WAYS, TEST)
