"""``masks:PATH``: layouts, numbers and colours of classes, sizes, and files that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import picture, write
from mask_files import numbers, pixels, write_camvid, write_mask, write_pairs
from PIL import Image

from qkd_deploy.data import ImageDataset, Split, StreamedSplit, batches, load_dataset
from qkd_deploy.data.augment.with_masks import MaskedCrop
from qkd_deploy.data.images.decode import View
from qkd_deploy.data.images.masks import mask_view
from qkd_deploy.data.resize import resized
from qkd_deploy.data.sets import assemble, masks
from qkd_deploy.errors import UserError
from qkd_deploy.tasks.segmentation import IGNORED, SEGMENTATION


def opened(path: Path, options: dict[str, Any] | None = None, **args: Any) -> ImageDataset:
    return load_dataset(f"masks:{path}", workers=0, args=args, **(options or {}))


LAYOUTS = [
    ("train/images", "train/masks", "val/images", "val/masks"),
    ("train/img", "train/annotations", "test/img", "test/annotations"),
    ("images/train", "masks/train", "images/val", "masks/val"),
    ("images/training", "annotations/training", "images/validation", "annotations/validation"),
    ("train", "trainannot", "val", "valannot"),
    ("train", "train_labels", "test", "test_labels"),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_usual_layouts(layout: tuple[str, ...], tmp_path: Path) -> None:
    images, labels, held_out, held_out_labels = (tmp_path / name for name in layout)
    written = write_pairs(images, labels, 3) + write_pairs(held_out, held_out_labels, 2, first=50)
    data = opened(tmp_path)
    assert (len(data.train), len(data.test)) == (3, 2)
    np.testing.assert_array_equal(torch.cat([data.train.labels, data.test.labels]).numpy(), np.stack(written))
    np.testing.assert_array_equal(data.train.images_at(torch.tensor([2])).numpy()[0], pixels(2))
    assert data.classes == ("0", "1", "2") and data.task is SEGMENTATION and data.measure == "mIoU"
    assert data.train.image_shape == (3, 12, 16) and data.notes == ()
    assert data.name == data.known_as == f"masks:{tmp_path.name}"
    assert isinstance(data.augmentation_named("auto"), MaskedCrop)


def test_images_and_masks_without_a_division_hold_out_every_fifth(tmp_path: Path) -> None:
    written = write_pairs(tmp_path / "images", tmp_path / "masks", 10)
    data = opened(tmp_path)
    np.testing.assert_array_equal(data.test.labels.numpy(), np.stack([written[2], written[7]]))
    assert len(data.train) == 8


def test_pascal_voc(tmp_path: Path) -> None:
    written = write_pairs(tmp_path / "JPEGImages", tmp_path / "SegmentationClass", 5, mode="P")
    write(tmp_path / "JPEGImages" / "unlabelled.png", 9)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for part, names in {"train": "003\n001\n", "val": "000\n", "trainval": "003\n001\n000\n"}.items():
        (lists / f"{part}.txt").write_text(names)
    data = opened(tmp_path)
    np.testing.assert_array_equal(data.train.labels.numpy(), np.stack([written[3], written[1]]))
    np.testing.assert_array_equal(data.test.labels.numpy(), written[0][None])
    (lists / "val.txt").write_text("000\n999\n")
    with pytest.raises(UserError, match=r"val.txt names '999', of which there is no file; correct the list, or add"):
        opened(tmp_path)


def test_cityscapes_has_several_masks_of_an_image(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for city in ("aachen", "bonn"):
            folder = tmp_path / "gtFine" / part / city
            write(tmp_path / "leftImg8bit" / part / city / "a_1_leftImg8bit.png", 1, (16, 12))
            write_mask(folder / "a_1_gtFine_labelTrainIds.png", numbers(1))
            write_mask(folder / "a_1_gtFine_labelIds.png", numbers(2) + 100)
            write_mask(folder / "a_1_gtFine_color.png", numbers(3))
    data = opened(tmp_path)
    np.testing.assert_array_equal(data.train.labels.numpy(), np.stack([numbers(1)] * 2))
    assert data.notes == ()


def test_the_part_that_is_held_out_can_be_named(tmp_path: Path) -> None:
    write_camvid(tmp_path)
    write_pairs(tmp_path / "test", tmp_path / "testannot", 3, first=200)
    assert len(opened(tmp_path).test) == 2
    assert len(opened(tmp_path, held_out="test").test) == 3
    with pytest.raises(
        UserError, match=r"no part 'tset' with images and masks to hold out .did you mean .test...; parts: test, val"
    ):
        opened(tmp_path, held_out="tset")


def test_a_number_that_counts_nowhere_closes_up_the_others(tmp_path: Path) -> None:
    """CamVid's void is the last number, ADE20K's the first."""
    written = np.stack(write_camvid(tmp_path, classes=4))
    last = opened(tmp_path, ignore=3)
    expected = np.where(written == 3, IGNORED, written)
    np.testing.assert_array_equal(torch.cat([last.train.labels, last.test.labels]).numpy(), expected)
    assert last.classes == ("0", "1", "2")
    first = opened(tmp_path, ignore=[0, 3])
    expected = np.where((written == 3) | (written == 0), IGNORED, written - 1)
    np.testing.assert_array_equal(torch.cat([first.train.labels, first.test.labels]).numpy(), expected)
    assert first.classes == ("1", "2")
    assert opened(tmp_path).fingerprint != last.fingerprint
    assert opened(tmp_path, {"classes": 3}, ignore=0).classes == ("1", "2", "3")


def test_255_counts_nowhere_unless_it_is_the_only_other_number(tmp_path: Path) -> None:
    write_camvid(tmp_path)
    mask = numbers(0)
    mask[3] = 255
    write_mask(tmp_path / "train" / ".." / "trainannot" / "000.png", mask)
    np.testing.assert_array_equal(opened(tmp_path).train.labels[0].numpy(), mask)
    for path in tmp_path.glob("*annot/*.png"):
        write_mask(path, 255 * (np.asarray(Image.open(path)) > 1).astype(np.uint8))
    data = opened(tmp_path)
    assert data.classes == ("0", "1") and data.train.labels.unique().tolist() == [0, 1]
    assert data.notes == ("the masks hold 0 and 255 alone, which are taken for two classes",)


TABLES = {
    "classes.txt": "# our street\nroad 128 64 128\nsky 0 0 255\nvoid 0 0 0\n",
    "class_dict.csv": "name,r,g,b\nroad,128,64,128\nsky,0,0,255\nvoid,0,0,0\n",
    "label_colors.txt": "128 64 128\t\troad\n0 0 255\tsky\n0 0 0\tvoid\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nroad:128,64,128::\nsky:0,0,255::\nvoid:0,0,0::\n",
}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("table", TABLES)
def test_colours_are_classes_where_a_table_says_so(table: str, mode: str, tmp_path: Path) -> None:
    written = write_camvid(tmp_path)
    colours = np.array([[128, 64, 128], [0, 0, 255], [0, 0, 0]], np.uint8)
    (tmp_path / table).write_text(TABLES[table])
    for path in tmp_path.glob("*annot/*.png"):
        image = Image.fromarray(colours[np.asarray(Image.open(path))])
        (image.quantize(8) if mode == "P" else image.convert(mode)).save(path)
    data = opened(tmp_path, ignore="void")
    assert data.classes == ("road", "sky")
    expected = np.where(np.stack(written) == 2, IGNORED, written)
    np.testing.assert_array_equal(torch.cat([data.train.labels, data.test.labels]).numpy(), expected)


def test_names_come_from_a_file(tmp_path: Path) -> None:
    write_camvid(tmp_path)
    (tmp_path / "names.list").write_text("road\nsky\ncar\n")
    assert opened(tmp_path, names="names.list").classes == ("road", "sky", "car")
    (tmp_path / "classes.txt").write_text("a b\nc\nd\ne\n")
    assert opened(tmp_path).classes == ("a b", "c", "d", "e")
    (tmp_path / "classes.txt").write_text("1 2 3\nc 4 5 6\n7,8,9:d\n")
    assert opened(tmp_path).classes == ("0", "c", "d")


def test_masks_are_brought_to_a_size_as_their_images_are(tmp_path: Path) -> None:
    written = write_camvid(tmp_path)
    half = opened(tmp_path, scale=0.5)
    assert half.train.image_shape == (3, 6, 8)
    # the middle of a pixel of half the size is the corner of four, of which the last one is taken
    np.testing.assert_array_equal(half.train.labels[1].numpy(), written[1][1::2, 1::2])
    assert opened(tmp_path, size="5x7").train.image_shape == (3, 5, 7)
    square = opened(tmp_path, {"image_size": 12})
    np.testing.assert_array_equal(square.train.labels[1].numpy(), written[1][:, 2:14])
    np.testing.assert_array_equal(square.train.images_at(torch.tensor([1])).numpy()[0], pixels(1)[:, :, 2:14])


@pytest.mark.parametrize("view", [View(3, 6, 8), View(3, 8, 8), View(3, 9, 9, crop_pct=0.75), View(3, 24, 32)])
def test_the_view_of_a_mask_lies_over_that_of_its_image(view: View) -> None:
    mask = np.zeros((24, 32), np.uint8)
    mask[8:16, 8:20] = 200
    image = Image.fromarray(np.repeat(mask[:, :, None], 3, 2))
    apart = np.abs(view.of(image)[0].astype(int) - mask_view(view).of_mask(mask))
    assert apart.max() <= 150 and (apart == 0).mean() > 0.5


@pytest.mark.parametrize("size", [12, 6, 9, 30])
def test_masks_in_memory_are_resized_with_their_images(size: int) -> None:
    mask = numbers(0)
    split = Split(torch.from_numpy(pixels(0).copy())[None], torch.from_numpy(mask)[None])
    data = resized(ImageDataset("own", split, split, ("a", "b", "c"), task=SEGMENTATION), size)
    square = mask[:, 2:14]
    for row in range(size):
        for column in range(size):
            at = [int((place + 0.5) * 12 / size) for place in (row, column)]
            assert data.train.labels[0, row, column] == square[at[0], at[1]]
    assert data.train.image_shape == (3, size, size)


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_whole_images_and_their_masks_come_into_one_frame(fit: str, tmp_path: Path) -> None:
    """Photographs of white things on black, with masks of 0 and 255, on the one grey of letterboxed images."""
    for part in ("train", "val"):
        for name, (width, height) in {"a": (16, 12), "b": (12, 16), "c": (32, 24)}.items():
            mask = np.zeros((height, width), np.uint8)
            mask[: height // 2] = 255
            write_mask(tmp_path / f"{part}annot" / f"{name}.png", mask)
            write_mask(tmp_path / part / f"{name}.png", mask)
    data = opened(tmp_path, {"fit": fit}, size="16x16")
    shown = torch.where(data.train.labels == IGNORED, 114, 255 * data.train.labels)
    assert (data.train.labels == IGNORED).any() == (fit == "letterbox")
    assert (shown == data.train.images[:, 0]).all(dim=2).float().mean() > 0.8  # rows but those that are mixed of both


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    write_camvid(tmp_path)
    write_pairs(tmp_path / "train", tmp_path / "trainannot", 1, first=70, size=(20, 12))
    with pytest.raises(UserError, match="have different sizes"):
        opened(tmp_path)
    assert len(opened(tmp_path, size="12x16").train) == 5


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path: Path) -> None:
    write_camvid(tmp_path, train=8)
    annot = tmp_path / "trainannot"
    (annot / "001.png").write_bytes((annot / "001.png").read_bytes()[:40])
    write_mask(annot / "002.png", numbers(2, (8, 12)))
    (annot / "003.png").unlink()
    (tmp_path / "train" / "004.png").unlink()
    (tmp_path / "train" / "005.png").write_bytes(b"damaged")
    data = opened(tmp_path)
    assert len(data.train) == 3
    np.testing.assert_array_equal(data.train.labels.numpy(), np.stack([numbers(seed) for seed in (0, 6, 7)]))
    lonely, unusable, unreadable = data.notes
    assert lonely == "2 images without masks, or masks without images, are left out, first train/003.png"
    assert unusable.startswith("2 of 8 masks cannot be used and are left out with their images, first trainannot/001")
    assert unreadable.startswith("1 of 8 images cannot be read and are left out, first train/005.png")


STRICT = {
    "lonely": "train/000.png has no image or no mask of the same name beside it; add that, or leave out --strict",
    "damaged": r"cannot use the mask trainannot/000.png \(.*\); replace it, or leave out --strict",
    "other size": r"cannot use the mask trainannot/000.png \(8x12 for an image of 16x12\); replace it",
}


@pytest.mark.parametrize("problem", STRICT)
def test_strict_names_the_first_one(problem: str, tmp_path: Path) -> None:
    write_camvid(tmp_path)
    mask = tmp_path / "trainannot" / "000.png"
    if problem == "lonely":
        mask.unlink()
    elif problem == "damaged":
        mask.write_bytes(mask.read_bytes()[:50])
    else:
        write_mask(mask, numbers(0, (8, 12)))
    assert len(opened(tmp_path).train) == 3
    with pytest.raises(UserError, match=STRICT[problem]):
        opened(tmp_path, {"strict": True})


def test_a_photograph_that_was_turned_fits_a_mask_that_was_not(tmp_path: Path) -> None:
    write_camvid(tmp_path)
    turned = picture(1, (12, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "train" / "001.png", exif=exif)
    data = opened(tmp_path)
    assert len(data.train) == 4 and data.notes == ()


def test_streamed_images_come_with_their_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_camvid(tmp_path, train=8)
    whole = opened(tmp_path)
    monkeypatch.setattr(assemble, "MEMORY_BYTES", 100)
    data = opened(tmp_path)
    assert isinstance(data.train, StreamedSplit)
    for (images, labels), (others, other_labels) in zip(
        *(batches(d.train, 3, torch.Generator().manual_seed(0), d.augmentation) for d in (data, whole)), strict=True
    ):
        assert torch.equal(images, others) and torch.equal(labels, other_labels)
    assert opened(tmp_path).fingerprint == data.fingerprint != opened(tmp_path, ignore=0).fingerprint


def test_decoding_threads_change_nothing(tmp_path: Path) -> None:
    write_camvid(tmp_path)
    several = load_dataset(f"masks:{tmp_path}", workers=2)
    assert several.fingerprint == opened(tmp_path).fingerprint


def test_masks_beyond_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_camvid(tmp_path)
    monkeypatch.setattr(masks, "MEMORY_BYTES", 6 * 12 * 16 - 1)
    with pytest.raises(UserError, match=r"take 0\.0 GB in memory; make them smaller by the argument scale or size"):
        opened(tmp_path)
    assert len(opened(tmp_path, scale=0.5).train) == 4
