"""Ways out of masks that cannot be read: as the sentence recommends, they can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import write
from mask_files import numbers, write_camvid, write_mask, write_pairs
from PIL import Image
from ways import Way, follow, require_all

from qkd_deploy.data import ImageDataset, Split, load_dataset
from qkd_deploy.data.resize import resized
from qkd_deploy.data.sets import masks
from qkd_deploy.tasks.segmentation import SEGMENTATION, Segmentation

TEST = "tests/data/sets/test_mask_ways.py::test_the_way_out_works"
COLOURS = np.array([[128, 64, 128], [0, 0, 255], [0, 0, 0]], np.uint8)
ROWS = ("road 128 64 128", "sky 0 0 255", "car 0 0 0")


def opens(path: Path, options: dict[str, Any] | None = None, **args: Any) -> None:
    """Open a folder, and find images to train on and others held out."""
    data = load_dataset(f"masks:{path}", workers=0, args=args, **(options or {}))
    assert len(data.train) and len(data.test)


def folder(root: Path, **form: Any) -> Path:
    write_camvid(root, **form)
    return root


def coloured(root: Path) -> Path:
    for path in folder(root).glob("*annot/*.png"):
        Image.fromarray(COLOURS[np.asarray(Image.open(path))]).save(path)
    return root


def listed(root: Path, *lines: str, name: str = "classes.txt") -> Path:
    root.mkdir(exist_ok=True)
    (root / name).write_text("\n".join(lines))
    return root


def strange(root: Path, value: int) -> Path:
    """A mask of 16 bits with a value of its own."""
    wide = numbers(0).astype(np.uint16)
    wide[5, 5] = value
    Image.fromarray(wide).save(folder(root) / "trainannot" / "000.png")
    return root


def renamed(root: Path) -> Path:
    for path in folder(root).glob("valannot/*.png"):
        path.rename(path.with_stem(f"z{path.stem}"))
    return root


def names_back(root: Path) -> Path:
    for path in root.glob("valannot/*.png"):
        path.rename(path.with_stem(path.stem.removeprefix("z")))
    return root


def lonely(root: Path) -> Path:
    write(folder(root) / "train" / "new.png", 7, (16, 12))
    return root


def damaged(root: Path, which: str = "*annot/*.png") -> Path:
    for path in folder(root).glob(which):
        path.write_bytes(path.read_bytes()[:50])
    return root


def voc(root: Path, *names: str) -> Path:
    write_pairs(root / "JPEGImages", root / "SegmentationClass", 5)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    for part in ("train", "val"):
        (lists / f"{part}.txt").write_text("\n".join(names))
    return root


def undivided(root: Path) -> Path:
    write_pairs(root / "images", root / "masks", 5)
    return root


def loose(root: Path) -> Path:
    write(root / "a.png", 1)
    return root


class Weighted(Segmentation):
    """A task of the user's for three classes."""

    weights = (0.5, 1.0, 3.0)


def in_memory(labels: torch.Tensor, classes: int = 3, task: Segmentation = SEGMENTATION) -> None:
    images = torch.zeros(len(labels), 3, 12, 16, dtype=torch.uint8)
    names = tuple(map(str, range(classes)))
    assert len(ImageDataset("own", Split(images, labels), Split(images, labels), names, task=task).train)


def small_masks(factor: int = 2) -> ImageDataset:
    """Images in memory with masks at a fraction of their size."""
    part = Split(torch.zeros(2, 3, 12, 16, dtype=torch.uint8), MASKS[:, ::factor, ::factor])
    return ImageDataset("own", part, part, ("a", "b", "c"), task=SEGMENTATION)


def small_memory(root: Path, **args: Any) -> None:
    with pytest.MonkeyPatch.context() as memory:
        memory.setattr(masks, "MEMORY_BYTES", 1000)
        opens(root, **args)


def judged(shape: tuple[int, ...]) -> None:
    SEGMENTATION.check_answers(torch.zeros(shape), 2, 3, "net")


MASKS = torch.from_numpy(np.stack([numbers(seed) for seed in range(2)]))

WAYS: dict[str, Way] = {
    "no folder": Way(
        lambda p: opens(p / "streat"), "give the one that holds images and masks", lambda p: opens(folder(p / "street"))
    ),
    "no layout": Way(
        lambda p: opens(loose(p)),
        "in a known layout",
        lambda p: [
            opens(undivided(p / "whole")),
            write_pairs(p / "train" / "images", p / "train" / "masks", 5),
            opens(p),
        ],
    ),
    "no part": Way(
        lambda p: opens(folder(p), held_out="test"),
        "with images and masks to hold out",
        lambda p: opens(p, held_out="val"),
        advice="; parts: val",
    ),
    "not divided": Way(lambda p: opens(undivided(p), held_out="val"), "is not divided into parts", lambda p: opens(p)),
    "a list of what is not there": Way(
        lambda p: opens(voc(p, "000", "007")),
        "of which there is no file",
        lambda p: [
            [write_pairs(p / "JPEGImages", p / "SegmentationClass", 1, first=7), opens(p)],
            opens(voc(p, "000", "001")),
        ],
    ),
    "other names": Way(
        lambda p: opens(renamed(p)),
        "has no image with a mask of the same name",
        lambda p: opens(names_back(p)),
    ),
    "an image without a mask": Way(
        lambda p: opens(lonely(p), {"strict": True}),
        "has no image or no mask of the same name beside it",
        lambda p: [opens(p), write_mask(p / "trainannot" / "new.png", numbers(7)), opens(p, {"strict": True})],
    ),
    "a damaged mask": Way(
        lambda p: opens(damaged(p, "*annot/001.png"), {"strict": True}),
        "cannot use the mask",
        lambda p: [opens(p), opens(folder(p), {"strict": True})],
    ),
    "damaged masks": Way(lambda p: opens(damaged(p)), "masks can be used, such as", lambda p: opens(folder(p))),
    "masks larger than memory": Way(
        lambda p: small_memory(folder(p)),
        "GB in memory; make them smaller",
        lambda p: [small_memory(p, scale=0.5), small_memory(p, size="6x8")],
    ),
    "colours": Way(
        lambda p: opens(coloured(p)),
        "has colours, and no table says whose they are",
        lambda p: [opens(listed(p, *ROWS)), opens(folder(p / "numbers"))],
    ),
    "another colour": Way(
        lambda p: opens(listed(coloured(p), *ROWS[:2])),
        "which the table of classes does not name",
        lambda p: [opens(listed(p, *ROWS)), opens(listed(p, *ROWS[:2], "void 0 0 0"), ignore="void")],
    ),
    "values beyond a byte": Way(
        lambda p: opens(strange(p, 256)),
        "class numbers are 0 to 254, and",
        lambda p: [opens(strange(p, 255)), opens(strange(p, 254))],
        advice="; class numbers are 0 to 254, and 255 is ignored",
    ),
    "an unknown argument": Way(
        lambda p: opens(folder(p), ignored=2),
        "{} takes no argument '{}'{}; it takes {}",
        lambda p: opens(p, ignore=2),
        advice="; it takes ignore, scale, size, names, held_out",
    ),
    "a part that is no text": Way(
        lambda p: opens(folder(p), held_out=1), "; give a text", lambda p: opens(p, held_out="val")
    ),
    "no scale": Way(lambda p: opens(folder(p), scale=2), "the argument scale is", lambda p: opens(p, scale=0.5)),
    "no size": Way(
        lambda p: opens(folder(p), size="small"), "the argument size is", lambda p: opens(p, size="180x240")
    ),
    "two sizes": Way(
        lambda p: opens(folder(p), {"image_size": 8}, scale=0.5),
        "is given the size of its images by",
        lambda p: [opens(p, {"image_size": 8}), opens(p, scale=0.5)],
    ),
    "no list of names": Way(
        lambda p: opens(folder(p), names="labels.txt"),
        "name the one that lists the classes",
        lambda p: opens(listed(p, *"abc", name="labels.txt"), names="labels.txt"),
    ),
    "an empty list of names": Way(
        lambda p: opens(listed(folder(p), "# nothing")),
        "of them, one on a line",
        lambda p: opens(listed(p, *"abc")),
        advice="; write 1 to 255 of them, one on a line",
    ),
    "a colour is missing": Way(
        lambda p: opens(listed(folder(p), *ROWS[:2], "car")),
        "gives no colour for",
        lambda p: [opens(listed(p, *ROWS)), opens(listed(p, "road", "sky", "car"))],
    ),
    "a colour twice": Way(
        lambda p: opens(listed(folder(p), *ROWS, "bus 0 0 0")),
        "twice; give each class its own",
        lambda p: opens(listed(p, *ROWS, "bus 0 0 1")),
    ),
    "no class of that name": Way(
        lambda p: opens(listed(folder(p), "road", "sky", "void"), ignore="viod"),
        "which is no class",
        lambda p: opens(p, ignore="void"),
        advice="did you mean 'void'?",
    ),
    "ignoring something else": Way(
        lambda p: opens(folder(p), ignore="void"),
        "give a number of the masks",
        lambda p: [opens(p, ignore=2), opens(listed(p, "a", "b", "void"), ignore="void")],
        advice="; give a number of the masks, 0 to 255, or a class",
    ),
    "a number of no class": Way(
        lambda p: opens(listed(folder(p), "a", "b")),
        "ignore it with the argument",
        lambda p: [opens(p, ignore=2), opens(listed(p, "a", "b", "c"))],
        advice="; ignore it with the argument ignore=2, or name more classes",
    ),
    "one class": Way(
        lambda p: opens(folder(p), ignore=[1, 2]),
        "give masks of two or more classes",
        lambda p: opens(p, ignore=1),
    ),
    "labels of images": Way(
        lambda p: in_memory(MASKS.long()),
        "segmentation needs masks",
        lambda p: in_memory(MASKS),
        advice="masks uint8 [N, H, W] of class numbers, with 255 where nothing counts",
    ),
    "too many classes": Way(
        lambda p: in_memory(MASKS, 256), "masks of bytes tell", lambda p: in_memory(MASKS, 255), advice="tell 255 apart"
    ),
    "nothing counts": Way(
        lambda p: in_memory(MASKS * 0 + 255),
        "ignore every pixel",
        lambda p: in_memory(MASKS),
        advice="; give class numbers from 0 to 2",
    ),
    "a class without a name": Way(
        lambda p: in_memory(MASKS, 2),
        "classes are numbered from 0; write",
        lambda p: [in_memory(MASKS, 3), in_memory(torch.where(MASKS == 2, 255, MASKS).byte(), 2)],
        advice="; write 255 where nothing counts, or name more classes",
    ),
    "masks of another size in memory": Way(
        lambda p: resized(small_masks(), 8),
        "have places in its images",
        lambda p: [small_masks(), resized(small_masks(1), 8)],
    ),
    "weights of other classes": Way(
        lambda p: in_memory(MASKS, 4, Weighted()),
        "class one weight",
        lambda p: in_memory(MASKS, 3, Weighted()),
        advice="; give each class one weight",
    ),
    "a network that classifies images": Way(
        lambda p: judged((2, 3)),
        "segmentation needs logits of shape",
        lambda p: judged((2, 3, 6, 8)),
        advice="; segmentation needs logits of shape [2, 3, height, width]",
    ),
}


def test_all_sentences_are_followed() -> None:
    require_all(WAYS, TEST)


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path, TEST)
