"""What is wrong in labels is left out and counted, or an error with ``strict``; or it is an error always."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from box_files import WRITERS, coco_content, voc_text, write_coco, write_images, write_voc, write_yolo
from command_ways import Answer, command
from PIL import Image
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.data import ImageDataset, load_dataset
from qkd_deploy.data.sets.detection import coco_json, yolo_labels
from qkd_deploy.errors import UserError

Change = Callable[[Path], object]


def opened(kind: str, path: Path, **options: Any) -> ImageDataset:
    return load_dataset(f"{kind}:{path}", **{"image_size": 32, "workers": 0, **options})


def boxes(data: ImageDataset) -> int:
    return sum(int((split.labels[:, :, 0] >= 0).sum()) for split in (data.train, data.test))


def images(data: ImageDataset) -> int:
    return len(data.train) + len(data.test)


def coco(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change the content of the training JSON."""

    def done(path: Path) -> None:
        content = coco_content("abc")
        change(content)
        write_coco(path, {"train": content})

    return done


def annotation(**entries: Any) -> Change:
    """Change the first annotation; None takes an entry out."""

    def change(content: dict[str, Any]) -> None:
        first = content["annotations"][0]
        first.update(entries)
        for key in [key for key, value in first.items() if value is None]:
            del first[key]

    return coco(change)


def yolo(*rows: str) -> Change:
    """Write one more row, or some, into the labels of the first image."""

    def done(path: Path) -> None:
        file = write_yolo(path) / "labels" / "train" / "a.txt"
        file.write_text("\n".join([file.read_text(), *rows]))

    return done


def voc(old: str, new: str) -> Change:
    """Change the annotation of the first image."""

    def done(path: Path) -> None:
        file = write_voc(path) / "Annotations" / "a.xml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new, 1))

    return done


def deep(path: Path) -> None:
    write_coco(path, {"train": "[" * 100_000})


def without(file: str, kind: str) -> Change:
    return lambda path: (WRITERS[kind](path) / file).unlink()


def written(file: str, kind: str, content: str | bytes) -> Change:
    def done(path: Path) -> None:
        whole = content if isinstance(content, bytes) else content.encode()
        (WRITERS[kind](path) / file).write_bytes(whole)

    return done


def replaced(by: Callable[[Path], object]) -> Change:
    """Put something else in the place of the label file of the first image."""

    def done(path: Path) -> None:
        file = write_yolo(path) / "labels" / "train" / "a.txt"
        file.unlink()
        by(file)

    return done


# all boxes are 7 and all images 5; the change, what the note says, and how many boxes and images remain
LEFT_OUT: dict[str, tuple[str, Change, str, int, int]] = {
    "zero width": ("coco", annotation(bbox=[2, 3, 0, 6]), "1 boxes without width or height", 6, 5),
    "negative height": ("coco", annotation(bbox=[2, 9, 8, -6]), "1 boxes without width or height", 6, 5),
    "outside": ("coco", annotation(bbox=[40, 3, 8, 6]), "1 boxes outside of their image", 6, 5),
    "infinite": ("coco", annotation(bbox=[float("inf"), 3, 8, 6]), "1 boxes with numbers that are not finite", 6, 5),
    "not a number": ("coco", annotation(bbox=[float("nan"), 3, 8, 6]), "1 boxes with numbers that are not", 6, 5),
    "endless": ("coco", annotation(bbox=[10**400, 3, 8, 6]), "1 boxes with numbers that are not finite", 6, 5),
    "text": ("coco", annotation(bbox=["2", "3", "8", "6"]), "1 boxes that are not four numbers", 6, 5),
    "three": ("coco", annotation(bbox=[2, 3, 8]), "1 boxes that are not four numbers", 6, 5),
    "true": ("coco", annotation(bbox=[True, 3, 8, 6]), "1 boxes that are not four numbers", 6, 5),
    "no box": ("coco", annotation(bbox=None), "1 annotations without a box", 6, 5),
    "no image": ("coco", annotation(image_id=5), "1 annotations of images that are not there", 6, 5),
    "list as id": ("coco", annotation(image_id=[1]), "1 annotations of images that are not there", 6, 5),
    "no class": ("coco", annotation(category_id=99), "1 boxes of unknown classes", 6, 5),
    "twice": ("coco", coco(lambda c: c["annotations"].append(c["annotations"][0])), "1 boxes that stand there", 7, 5),
    "no record": ("coco", coco(lambda c: c["annotations"].append(3)), "1 annotations of images that are not", 7, 5),
    "image id twice": (
        "coco",
        coco(lambda c: c["images"].append({**c["images"][0], "file_name": "b.png"})),
        "1 images with the id of another one",
        7,
        5,
    ),
    "nameless": ("coco", coco(lambda c: c["images"].append({"id": 1})), "1 images without id or file name", 7, 5),
    "escaping": (
        "coco",
        coco(lambda c: c["images"][0].update(file_name="../../a.png")),
        "1 images whose names lead out of their folder",
        5,
        4,
    ),
    "long name": (
        "coco",
        coco(lambda c: c["images"][0].update(file_name="a" * 5000)),
        "1 images that cannot be read",
        5,
        4,
    ),
    "missing": ("coco", without("train2017/a.png", "coco"), "1 images that cannot be read", 5, 4),
    "no picture": ("yolo", written("images/train/a.png", "yolo", "text"), "1 images that cannot be read", 5, 4),
    "class 2 of 2": ("yolo", yolo("2 .5 .5 .5 .5"), "1 boxes of unknown classes", 7, 5),
    "class -1": ("yolo", yolo("-1 .5 .5 .5 .5"), "1 boxes of unknown classes", 7, 5),
    "half a class": ("yolo", yolo("0.5 .5 .5 .5 .5"), "1 rows whose class is no whole number", 7, 5),
    "infinite class": ("yolo", yolo("inf .5 .5 .5 .5"), "1 rows whose class is no whole number", 7, 5),
    "words": ("yolo", yolo("cat .5 .5 .5 .5"), "1 rows that are not made of numbers", 7, 5),
    "4 columns": ("yolo", yolo("1 .5 .5 .5"), "1 rows that are no box of 5 columns and no outline", 7, 5),
    "6 columns": ("yolo", yolo("1 .5 .5 .5 .5 .9"), "1 rows that are no box of 5 columns and no", 7, 5),
    "nan": ("yolo", yolo("1 .5 nan .5 .5"), "1 boxes with numbers that are not finite", 7, 5),
    "nan outline": ("yolo", yolo("1 .5 .5 .7 nan .9 .9"), "1 boxes with numbers that are not finite", 7, 5),
    "pixels": ("yolo", yolo("1 20 10 4 4"), "1 boxes outside of their image", 7, 5),
    "not text": ("yolo", written("labels/train/a.txt", "yolo", b"\xff\xfe\x00"), "rows that are not made", 5, 5),
    "folder": ("yolo", replaced(Path.mkdir), "1 label files that are no regular files", 5, 5),
    "loop": ("yolo", replaced(lambda p: p.symlink_to(p.name)), "1 label files that are no regular files", 5, 5),
    "lonely": ("yolo", written("labels/train/z.txt", "yolo", "1 .5 .5 .5 .5"), "1 label files without an", 7, 5),
    "turned": ("voc", voc("<xmin>3</xmin>", "<xmin>20</xmin>"), "1 boxes without width or height", 6, 5),
    "half a number": ("voc", voc("<xmin>3</xmin>", "<xmin>3px</xmin>"), "1 boxes that are not four numbers", 6, 5),
    "no xmax": ("voc", voc("<xmax>10</xmax>", ""), "1 boxes that are not four numbers", 6, 5),
    "no name": ("voc", voc("<name>dog</name>", ""), "1 objects without name or box", 6, 5),
    "torn": ("voc", voc("</annotation>", ""), "1 annotations that cannot be read, ", 5, 4),
    "other XML": ("voc", voc("annotation>", "html>"), "1 annotations that cannot be read", 5, 4),
    "no XML": ("voc", written("Annotations/a.xml", "voc", b"\0\1"), "1 annotations that cannot be read", 5, 4),
    "encoding": (
        "voc",
        written("Annotations/a.xml", "voc", '<?xml version="1.0" encoding="ebcdic"?>' + voc_text("a")),
        "1 annotations that cannot be read",
        5,
        4,
    ),
    "unannotated": ("voc", without("Annotations/a.xml", "voc"), "1 images without annotation", 5, 4),
    "listed only": ("voc", without("JPEGImages/a.png", "voc"), "1 images that are not there", 5, 4),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_it_is_left_out_and_counted_or_an_error(case: str, tmp_path: Path) -> None:
    kind, change, said, left, images_left = LEFT_OUT[case]
    change(tmp_path)
    data = opened(kind, tmp_path)
    noted = [note for note in data.notes if "no label file" not in note]
    assert len(noted) == 1 and said.rstrip(", ") in noted[0] and "left out, first " in noted[0], noted
    assert (boxes(data), images(data)) == (left, images_left)
    with pytest.raises(UserError) as refused:
        opened(kind, tmp_path, strict=True)
    assert said.removeprefix("1 ") in str(refused.value) and "\n" not in str(refused.value)
    assert "; correct them, or leave out --strict (strict in Python)" in str(refused.value)


REMARKED: dict[str, tuple[str, Change, str]] = {
    "beyond": ("coco", annotation(bbox=[-5, 3, 10, 6]), "1 boxes reach beyond their image and end there, first in"),
    "other size": (
        "coco",
        coco(lambda c: c["images"][0].update(width=320, height=160)),
        "1 images have another size than their labels say; their own one counts",
    ),
    "no objects": ("yolo", write_yolo, "1 images have no label file and count as without objects"),
    "class without objects": (
        "coco",
        coco(lambda c: c["categories"].append({"id": 9, "name": "cow"})),
        "1 of 3 classes have no training objects: cow",
    ),
}


@pytest.mark.parametrize("case", REMARKED)
def test_it_is_remarked_and_no_error(case: str, tmp_path: Path) -> None:
    kind, change, said = REMARKED[case]
    change(tmp_path)
    data = opened(kind, tmp_path, strict=True)
    assert len(data.notes) == 1 and said.replace("first in", "first ") in data.notes[0]
    assert (boxes(data), images(data)) == (7, 5)


@pytest.mark.parametrize(
    "change",
    [
        annotation(bbox=[1.5, 3, 8, 14]),
        coco(lambda c: c["images"][0].update(width=0, height=None)),
        coco(lambda c: [a.update(id=1) for a in c["annotations"]]),
        coco(lambda c: [a.pop("iscrowd") for a in c["annotations"]]),
        coco(
            lambda c: (
                [i.update(id=str(i["id"])) for i in c["images"]]
                + [a.update(image_id=str(a["image_id"])) for a in c["annotations"]]
            )
        ),
    ],
    ids=["rounding", "no size", "annotation ids", "no crowds", "ids of text"],
)
def test_what_is_nothing_to_speak_of(change: Change, tmp_path: Path) -> None:
    change(tmp_path)
    data = opened("coco", tmp_path, strict=True)
    assert (data.notes, boxes(data), images(data)) == ((), 7, 5)


def test_a_box_beyond_its_image_ends_at_the_border(tmp_path: Path) -> None:
    annotation(bbox=[-5, 3, 10, 60])(tmp_path)
    assert opened("coco", tmp_path).train.labels[0, 0].tolist() == [1, 0, 11, 5, 24, 0]


REFUSED: dict[str, tuple[str, Change, str]] = {
    "no JSON": ("coco", lambda p: write_coco(p, {"train": '{"images": '}), "is no JSON"),
    "empty": ("coco", lambda p: write_coco(p, {"train": ""}), "no JSON"),
    "a list": ("coco", lambda p: write_coco(p, {"train": '["images"]'}), "is no COCO JSON"),
    "no lists": ("coco", lambda p: write_coco(p, {"train": '{"images": 3}'}), "is no COCO JSON"),
    "nested": ("coco", lambda p: write_coco(p, {"train": '{"images": ' + "[" * 100_000}), "nested too deep"),
    "long number": ("coco", lambda p: write_coco(p, {"train": '{"images": ' + "9" * 5000}), "is no JSON"),
    "no images": ("coco", coco(lambda c: c.update(images=[])), "no training image that can be read"),
    "no boxes": ("coco", coco(lambda c: c.update(annotations=[])), "has no box to train on"),
    "no classes": ("coco", coco(lambda c: c.update(categories=[])), "has no categories"),
    "two of an id": (
        "coco",
        coco(lambda c: c["categories"].append({"id": 3, "name": "cow"})),
        "two categories of the id",
    ),
    "two of a name": ("coco", coco(lambda c: c["categories"].append({"id": 4, "name": "cat"})), "or the name 'cat'"),
    "no name": ("coco", coco(lambda c: c["categories"].append({"id": 4})), "a category without id or name"),
    "images elsewhere": ("coco", lambda p: (write_coco(p) / "train2017").rename(p / "pictures"), "none lies near it"),
    "nothing": ("coco", lambda p: write_images(p, "x"), "holds 0 COCO JSON files"),
    "no yaml": ("yolo", written("data.yaml", "yolo", "names: [cat"), "is no YAML file"),
    "yaml of text": ("yolo", written("data.yaml", "yolo", "cat"), "holds no entries such as names"),
    "references": ("yolo", written("data.yaml", "yolo", "a: &a [x]\nnames: *a\n"), "has references"),
    "objects": ("yolo", written("data.yaml", "yolo", "names: !!python/object:os.system [ls]"), "is no YAML file"),
    "bad date": ("yolo", written("data.yaml", "yolo", "names: 2001-99-99"), "is no YAML file"),
    "yaml nested": ("yolo", written("data.yaml", "yolo", "[" * 5000), "is nested too deep"),
    "large yaml": ("yolo", written("data.yaml", "yolo", "#" * 2_000_000), "larger than 256 KiB"),
    "gaps": ("yolo", written("data.yaml", "yolo", "names: {0: cat, 2: dog}"), "does not number its classes 0 to 1"),
    "names of lists": ("yolo", written("data.yaml", "yolo", "names: [[cat]]"), "no list of class names"),
    "same names": ("yolo", written("data.yaml", "yolo", "names: [cat, cat]"), "two classes the same name"),
    "same names in text": ("yolo", lambda p: (write_yolo(p, "") / "classes.txt").write_text("a\na"), "the same name"),
    "no folder": ("yolo", written("data.yaml", "yolo", "train: images/trein\nnames: [cat, dog]"), "is not there"),
    "number as folder": ("yolo", written("data.yaml", "yolo", "train: 3\nnames: [cat]"), "no folder of images"),
    "two yamls": ("yolo", lambda p: [(write_yolo(p, "") / f"{x}.yaml").write_text("") for x in "ab"], "several files"),
    "no labels": ("yolo", lambda p: (write_yolo(p) / "labels").rename(p / "texts"), "no labels for them"),
    "no pictures": ("yolo", lambda p: p, "no labels for them"),
    "document type": ("voc", voc("<annotation>", '<!DOCTYPE a [<!ENTITY b "c">]><annotation>'), "a document type"),
    "empty VOC": ("voc", lambda p: [f.unlink() for f in (write_voc(p) / "Annotations").iterdir()], "has no objects"),
    "no VOC": ("voc", lambda p: write_images(p, "JPEGImages"), "holds no folders JPEGImages and Annotations"),
    "two VOCs": ("voc", lambda p: [write_voc(p / x) for x in "ab"], "holds 2 data sets"),
    "nothing held out": (
        "coco",
        lambda p: write_coco(p, {"val": {**coco_content("de"), "images": []}}),
        "no held-out image",
    ),
    "no held-out boxes": (
        "coco",
        lambda p: write_coco(p, {"val": {**coco_content("de"), "annotations": []}}),
        "no box in its held-out images",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    kind, change, said = REFUSED[case]
    change(tmp_path)
    with pytest.raises(UserError) as refused:
        opened(kind, tmp_path)
    assert said in str(refused.value), refused.value
    assert "; " in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 600


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_that_is_not_there_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"there is no .*after '{kind}:'"):
        opened(kind, tmp_path / "x")
    with pytest.raises(UserError, match="takes no argument 'colour'"):
        opened(kind, tmp_path, args={"colour": 1})
    with pytest.raises(UserError, match="--fit crop would cut some away; take letterbox or stretch"):
        opened(kind, WRITERS[kind](tmp_path), fit="crop")


def test_huge_label_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yolo_labels, "_MOST_BYTES", 40)
    yolo("1 .5 .5 .5 .5\n")(tmp_path / "yolo")
    assert any("2 label files of more than" in note for note in opened("yolo", tmp_path / "yolo").notes)
    monkeypatch.setattr(coco_json, "MOST_BYTES", 100)
    with pytest.raises(UserError, match=r"has more than .*; divide it"):
        opened("coco", write_coco(tmp_path / "coco"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    path = write_yolo(tmp_path / "yolo")
    for file in ("images/train/c.png", "labels/val/d.txt"):
        (path / file).unlink()
        os.mkfifo(path / file)
    data = opened("yolo", path)
    assert images(data) == 4 and sum("no regular file" in note for note in data.notes) == 2
    os.mkfifo(tmp_path / "p.json")
    with pytest.raises(UserError, match="no file or folder"):
        opened("coco", tmp_path / "p.json")


def test_an_image_with_too_many_boxes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qkd_deploy.data.sets.detection.targets._MOST_VALUES", 50)
    with pytest.raises(UserError, match=r"an image with 2 boxes, and 5 images.*; leave that image out"):
        opened("coco", write_coco(tmp_path))


def test_a_damaged_body_is_left_out_with_its_boxes(tmp_path: Path) -> None:
    path = write_yolo(tmp_path)
    file = path / "images" / "train" / "a.png"
    Image.effect_noise((32, 16), 90).convert("RGB").save(file)
    file.write_bytes(file.read_bytes()[:200])
    data = opened("yolo", path)
    assert (boxes(data), images(data)) == (5, 4)
    assert any("cannot be read and are left out, first images/train/a.png" in note for note in data.notes), data.notes


def test_control_characters_of_files_are_not_shown(tmp_path: Path) -> None:
    coco(lambda c: c["images"].append({"id": "\x1b[2J", "file_name": 3}))(tmp_path)
    (note,) = opened("coco", tmp_path).notes
    assert "\x1b" not in note and json.dumps(note)


# -- on the command line -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a detector of two classes for images of 32 x 32 pixels."""
    torch.manual_seed(0)
    examples = torch.randn(2, 3, 32, 32)
    model = nn.Sequential(nn.Conv2d(3, 10, 3, 32, 1), nn.ReLU(), Maps())
    prepared = qkd.prepare(model.eval(), "w8a8", (examples,))
    qkd.initialize(prepared, examples)
    path = tmp_path_factory.mktemp("file") / "maps.onnx"
    qkd.export_onnx(prepared.eval(), path)
    return path


class Maps(nn.Module):
    """Scores of two classes, and distances over two bins."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.boxes = nn.Conv2d(10, 2, 1), nn.Conv2d(10, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.scores(x), self.boxes(x)


def verified(file: Path, kind: str, path: Path, *more: str) -> Answer:
    line = ["verify", str(file), "--dataset", f"{kind}:{path}", "--image-size", "32", "--workers", "0", *more]
    return command(shlex.join(line), path)


@pytest.mark.parametrize("case", [("coco", "zero width"), ("coco", "missing"), ("yolo", "nan"), ("voc", "torn")])
def test_a_command_goes_on_and_counts(case: tuple[str, str], file: Path, tmp_path: Path) -> None:
    kind, change, said, *_ = LEFT_OUT[case[1]]
    assert kind == case[0]
    change(tmp_path)
    answer = verified(file, kind, tmp_path)
    notes = [line for line in answer.err.splitlines() if line.startswith("note: ") and "left out, first " in line]
    assert answer.code == 0 and "CONSISTENT" in answer.out, answer.err
    assert len(notes) == 1 and said.rstrip(", ") in notes[0]


@pytest.mark.parametrize("case", LEFT_OUT)
def test_with_strict_a_command_ends_in_one_line(case: str, file: Path, tmp_path: Path) -> None:
    kind, change, said, *_ = LEFT_OUT[case]
    change(tmp_path)
    answer = verified(file, kind, tmp_path, "--strict")
    assert answer.code == 2 and not answer.out and len(answer.err.splitlines()) == 1, answer.err
    assert answer.err.startswith("Error: ") and said.removeprefix("1 ") in answer.err


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_ends_a_command_in_one_line(case: str, file: Path, tmp_path: Path) -> None:
    kind, change, said = REFUSED[case]
    change(tmp_path)
    answer = verified(file, kind, tmp_path)
    assert answer.code == 2 and not answer.out and len(answer.err.splitlines()) == 1, answer.err
    assert answer.err.startswith("Error: ") and said in answer.err


READERS = {
    "train": "train --dataset {} --image-size 32 --model detector",
    "export": "export x.pt --calibrate {} --image-size 32 --model detector --bits w8a8",
    "inspect": "inspect x.pt --sensitivity --dataset {} --image-size 32 --model detector",
}


@pytest.mark.parametrize("reader", READERS)
def test_every_command_that_reads_labels_can_be_strict(reader: str, tmp_path: Path) -> None:
    """What is wrong in the labels is said before the network is built: weights that are none are not reached."""
    LEFT_OUT["nan"][1](tmp_path / "boxes")
    torch.save({}, tmp_path / "x.pt")
    line = READERS[reader].format("yolo:boxes")
    answer = command(f"{line} --strict", tmp_path)
    assert answer.code == 2 and len(answer.err.splitlines()) == 1
    assert "has boxes with numbers that are not finite, first images/train/a.png; correct them" in answer.err
