"""Boxes from files: the three formats say the same, and boxes lie where letterboxed images show their objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from box_files import BOXES, CLASSES, SIZES, WRITERS, coco_content, voc_text, write_coco, write_images, write_yolo
from image_files import picture
from PIL import Image

from qkd_deploy.data import ImageDataset, Split, StreamedSplit, load_dataset
from qkd_deploy.data.images.decode import View, open_image, upright_size
from qkd_deploy.data.sets import assemble
from qkd_deploy.errors import UserError


def opened(kind: str, path: Path, **options: Any) -> ImageDataset:
    return load_dataset(f"{kind}:{path}", **{"image_size": 32, "workers": 0, **options})


def expected(name: str, size: int = 32) -> list[list[float]]:
    """The rows of an image that is letterboxed to a square, which all of these are without rounding."""
    width, height = SIZES[name]
    scale = size / max(width, height)
    left, top = (size - width * scale) / 2, (size - height * scale) / 2
    return [
        [CLASSES.index(label), x1 * scale + left, y1 * scale + top, x2 * scale + left, y2 * scale + top, 0]
        for label, x1, y1, x2, y2 in BOXES[name]
    ]


def rows(targets: torch.Tensor) -> list[list[float]]:
    """The boxes of an image [M, 6], without padding."""
    assert (targets[targets[:, 0] < 0] == torch.tensor([-1.0, 0, 0, 0, 0, 0])).all()
    return [row for row in targets.tolist() if row[0] >= 0]


@pytest.mark.parametrize("kind", WRITERS)
def test_the_formats_say_the_same(kind: str, tmp_path: Path) -> None:
    data = opened(kind, WRITERS[kind](tmp_path / "data"))
    assert (data.name, data.classes, data.evaluation) == (f"{kind}:data", CLASSES, {"fit": "letterbox"})
    assert data.task.name == "detection" and data.train.image_shape == (3, 32, 32)
    assert data.train.labels.dtype == torch.float32
    assert [rows(targets) for targets in data.train.labels] == [expected(name) for name in "abc"]
    assert [rows(targets) for targets in data.test.labels] == [expected(name) for name in "de"]
    assert [note for note in data.notes if "no label file" not in note] == []
    assert opened(kind, tmp_path / "data").fingerprint == data.fingerprint


def test_boxes_lie_where_their_pixels_are(tmp_path: Path) -> None:
    """A white rectangle on black keeps its corners, whatever the proportions and sizes of its image are."""
    content = coco_content("abc")
    for record, size in zip(content["images"], [(100, 40), (37, 90), (50, 50)], strict=True):
        (tmp_path / "train2017").mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((size[1], size[0]), np.uint8)
        pixels[size[1] // 4 : size[1] // 2, size[0] // 5 : size[0] // 2] = 255
        Image.fromarray(pixels).convert("RGB").save(tmp_path / "train2017" / record["file_name"])
    content["annotations"] = [
        {"image_id": ord(n), "category_id": 3, "bbox": [w // 5, h // 4, w // 2 - w // 5, h // 2 - h // 4]}
        for n, (w, h) in zip("abc", [(100, 40), (37, 90), (50, 50)], strict=True)
    ]
    (tmp_path / "instances_train2017.json").write_text(json.dumps(content))
    data = opened("coco", tmp_path, image_size=80)
    for split in (data.train, data.test):
        assert isinstance(split, Split)
        for image, targets in zip(split.images, split.labels, strict=True):
            (row,) = rows(targets)
            down, across = torch.where(image[0] > 127 + (image[0] == 114))
            seen = [across.min(), down.min(), across.max() + 1, down.max() + 1]
            assert max(abs(own - float(place)) for own, place in zip(row[1:5], seen, strict=True)) <= 1


@pytest.mark.parametrize(("size", "box"), [((20, 10), (0, 4, 16, 12)), ((9, 20), (4, 0, 11, 16)), ((16, 16), None)])
def test_a_letterboxed_image_is_whole_on_grey(size: tuple[int, int], box: tuple[int, int, int, int] | None) -> None:
    shown = picture(0, size)
    pixels = View(3, 16, 16, fit="letterbox").of(shown)
    left, top, right, bottom = box or (0, 0, 16, 16)
    resized = shown.resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    assert np.array_equal(pixels[:, top:bottom, left:right], np.asarray(resized).transpose(2, 0, 1))
    pixels[:, top:bottom, left:right] = 114
    assert (pixels == 114).all()


def test_images_and_boxes_can_be_stretched(tmp_path: Path) -> None:
    data = opened("yolo", write_yolo(tmp_path), fit="stretch")
    assert data.evaluation == {"fit": "stretch"}
    assert rows(data.train.labels[0])[0] == [1, 2, 6, 10, 18, 0]
    assert isinstance(data.train, Split)
    stretched = picture(0, SIZES["a"]).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(data.train.images[0], np.asarray(stretched).transpose(2, 0, 1))


def test_any_image_folder_can_be_letterboxed_as_a_file_says(tmp_path: Path) -> None:
    write_images(tmp_path, "{}/x")
    write_images(tmp_path, "{}/y")
    data = opened("imagefolder", tmp_path, fit="letterbox", crop_pct=0.5)
    assert data.evaluation == {"fit": "letterbox"}
    assert isinstance(data.train, Split) and (data.train.images[0, :, :8] == 114).all()


def test_streamed_images_have_the_boxes_of_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = WRITERS["voc"](tmp_path)
    held = opened("voc", path)
    monkeypatch.setattr(assemble, "MEMORY_BYTES", 0)
    data = opened("voc", path)
    assert isinstance(data.train, StreamedSplit) and isinstance(held.train, Split)
    pieces = [torch.tensor([2, 0]), torch.tensor([1])]
    images, targets = map(torch.cat, zip(*data.train.read(pieces), strict=True))
    assert torch.equal(images, held.train.images[[2, 0, 1]]) and torch.equal(targets, held.train.labels[[2, 0, 1]])


def test_images_are_upright_with_their_boxes(tmp_path: Path) -> None:
    """A camera held sideways: labels are those of the upright image."""
    path = write_yolo(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0, (16, 32)).save(path / "images" / "train" / "a.png", exif=exif)
    assert rows(opened("yolo", path).train.labels[0]) == expected("a")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("turn", [0, 1, 3, 6, 8])
def test_sizes_are_read_upright(turn: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    picture(0, (16, 32)).save(tmp_path / f"a.{suffix}", **({"exif": exif} if turn else {}))
    assert upright_size(tmp_path / f"a.{suffix}") == open_image(tmp_path / f"a.{suffix}").size


@pytest.mark.parametrize("kind", WRITERS)
def test_without_a_division_every_fifth_image_is_held_out(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path)
    if kind == "coco":
        (path / "annotations" / "instances_val2017.json").unlink()
        content = coco_content("abc")
        content["annotations"].append({"image_id": ord("c"), "category_id": 3, "bbox": [1, 1, 8, 8]})
        (path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    elif kind == "yolo":
        (path / "data.yaml").unlink()
        (path / "classes.txt").write_text("cat\ndog\n")
        for folder in ("images", "labels"):
            (path / folder / "val").rename(path / folder / "more")
            (path / folder / "train").rename(path / folder / "some")
    else:
        (path / "ImageSets" / "Main" / "train.txt").unlink()
        (path / "ImageSets" / "Main" / "val.txt").unlink()
    data = opened(kind, path)
    assert len(data.test) == 1 and len(data.train) == (2 if kind == "coco" else 4)
    assert rows(data.test.labels[0])


@pytest.mark.parametrize("layout", ["roboflow", "one file", "flat", "twin"])
def test_coco_in_other_layouts(layout: str, tmp_path: Path) -> None:
    named = {"train": "abc", "val": "de"}
    if layout == "roboflow":
        for part, folder in (("train", "train"), ("val", "valid")):
            write_images(tmp_path, "{}")
            if part == "val":
                (tmp_path / "val").rename(tmp_path / "valid")
            (tmp_path / folder / "_annotations.coco.json").write_text(json.dumps(coco_content(named[part])))
        path = tmp_path
    elif layout == "twin":
        path = write_coco(tmp_path) / "annotations" / "instances_train2017.json"
    else:
        write_images(tmp_path, "images" if layout == "flat" else "")
        (tmp_path / "result.json").write_text(json.dumps(coco_content("abcde")))
        path = tmp_path if layout == "flat" else tmp_path / "result.json"
    data = opened("coco", path)
    found = [rows(targets) for targets in [*data.train.labels, *data.test.labels]]
    held_out_last = layout in ("roboflow", "twin")
    assert found == [expected(name) for name in ("abcde" if held_out_last else "abced")]


def test_crowds_and_difficult_objects_are_marked(tmp_path: Path) -> None:
    content = coco_content("abc")
    content["annotations"][1]["iscrowd"] = 1
    data = opened("coco", write_coco(tmp_path / "coco", {"train": content}))
    assert [row[5] for row in rows(data.train.labels[0])] == [0, 1]
    path = WRITERS["voc"](tmp_path / "voc")
    (path / "Annotations" / "a.xml").write_text(voc_text("a", difficult=1))
    assert [row[5] for row in rows(opened("voc", path).train.labels[0])] == [1, 1]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ("names: {0: cat, 1: dog}\n", CLASSES),
        ("nc: 3\nnames:\n- cat\n- dog\n- 3\n", ("cat", "dog", "3")),
        ("nc: 2\n", ("0", "1")),
        ("path: elsewhere\n", ("0", "1")),
    ],
)
def test_class_names_of_yolo(names: str, classes: tuple[str, ...], tmp_path: Path) -> None:
    assert opened("yolo", write_yolo(tmp_path, names)).classes == classes


def test_outlines_of_yolo_become_boxes(tmp_path: Path) -> None:
    path = write_yolo(tmp_path)
    (path / "labels" / "train" / "b.txt").write_text("1 0.25 0.5 0.5 0.25 0.75 0.75\n")
    assert rows(opened("yolo", path).train.labels[1]) == [[1, 12, 8, 20, 24, 0]]


@pytest.mark.parametrize("listed", ["../images/train", "lists/train.txt", "[images/train]"])
def test_where_a_data_yaml_may_point(listed: str, tmp_path: Path) -> None:
    path = write_yolo(tmp_path / "data")
    (path / "lists").mkdir()
    (path / "lists" / "train.txt").write_text("../images/train/a.png\n../images/train/b.png\n../images/train/c.png\n")
    (path / "data.yaml").write_text(f"train: {listed}\nval: {path}/images/val\nnames: [cat, dog]\n")
    data = opened("yolo", path / "data.yaml")
    assert [rows(targets) for targets in data.train.labels] == [expected(name) for name in "abc"]
    assert len(data.test) == 2


def test_no_size_is_needed_where_all_images_have_one(tmp_path: Path) -> None:
    path = write_yolo(tmp_path)
    with pytest.raises(UserError, match=r"different sizes.*give --image-size"):
        opened("yolo", path, image_size=0)
    for part, names in (("train", "abc"), ("val", "de")):
        for name in names:
            picture(0, (32, 16)).save(path / "images" / part / f"{name}.png")
    assert opened("yolo", path, image_size=0).train.image_shape == (3, 16, 32)
