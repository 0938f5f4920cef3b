"""Ways out of one's own images and arrays that cannot be opened: as the sentence recommends, they can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import write, write_tree
from PIL import Image
from ways import Way, follow, require_all

from qkd_deploy.data import load_dataset
from qkd_deploy.data.sets import arrays
from qkd_deploy.data.sets.arrays import read_arrays
from qkd_deploy.errors import UserError

TEST = "tests/data/sets/test_own_data_ways.py::test_the_way_out_works"
PIXELS, LABELS = np.zeros((10, 8, 8), np.uint8), np.arange(10) % 2


def opens(name: Path | str, **options: Any) -> None:
    """Open a data set, and find images to train on and others held out."""
    data = load_dataset(str(name), **{"workers": 0, **options})
    assert len(data.train) and len(data.test)


def folder_opens(path: Path, **options: Any) -> None:
    opens(f"imagefolder:{path}", **options)


def archive(path: Path, **content: np.ndarray) -> Path:
    np.savez(path, **content)  # type: ignore[arg-type]
    return path


def four(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Held-out images of their own."""
    return {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}


def nameless(path: Path) -> Path:
    with path.open("wb") as file:
        np.save(file, PIXELS)
    return path


def small_memory(action: Callable[[], object]) -> None:
    """Do something where a hundredth of the usual memory is there for arrays."""
    with pytest.MonkeyPatch.context() as memory:
        memory.setattr(arrays, "_UNPACKED_BYTES", 10_000)
        action()


def packed(path: Path, count: int) -> Path:
    np.savez_compressed(path, images=np.zeros((count, 8, 8), np.uint8), labels=np.arange(count) % 2)
    return path


def as_files(source: Path, folder: Path) -> Path:
    """Write the images of arrays into class folders."""
    with np.load(source) as content:
        for number, (image, label) in enumerate(zip(content["images"], content["labels"], strict=True)):
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / str(label) / f"{number}.png")
    return folder


def tree(root: Path, per_class: int = 5, **form: Any) -> Path:
    return write_tree(root, per_class, **form)


def damaged(root: Path) -> Path:
    for path in tree(root).rglob("*.png"):
        path.write_bytes(b"damaged")
    return root


def of_two_sizes(root: Path) -> Path:
    write(tree(root) / "a" / "large.png", 7, (16, 12))
    return root


def divided(root: Path, held_out: str) -> Path:
    tree(root / "train", classes="abc")
    tree(root / "val", classes=held_out)
    return root


def without_images(root: Path) -> Path:
    (root / "pictures").mkdir(parents=True)
    (root / "a.txt").write_text("")
    return root


WAYS: dict[str, Way] = {
    "a folder instead of arrays": Way(
        lambda p: [(p / "a.npz").mkdir(), opens(p / "a.npz")],
        "give a .npy or .npz file",
        lambda p: [
            opens(archive(p / "b.npz", images=PIXELS, labels=LABELS)),
            [np.save(p / "b.npy", PIXELS), read_arrays(p / "b.npy")],
        ],
    ),
    "an array without a name": Way(
        lambda p: opens(nameless(p / "a.npz")),
        "holds one array without a name",
        lambda p: [
            opens(archive(p / "a.npz", images=PIXELS, labels=LABELS)),
            opens(archive(p / "a.npz", **four(PIXELS, LABELS))),
        ],
        advice="; write x_train, y_train, x_test and y_test, or images and labels with",
    ),
    "arrays larger than memory": Way(
        lambda p: small_memory(lambda: opens(packed(p / "a.npz", 2000))),
        "which is not kept in memory",
        lambda p: small_memory(
            lambda: [opens(packed(p / "b.npz", 100)), folder_opens(as_files(p / "b.npz", p / "images"))]
        ),
    ),
    "numbers with gaps": Way(
        lambda p: opens(archive(p / "a.npz", images=PIXELS, labels=LABELS * 2**21)),
        "number them from 0 without gaps",
        lambda p: opens(archive(p / "a.npz", images=PIXELS, labels=np.unique(LABELS * 2**21, return_inverse=True)[1])),
    ),
    "damaged images": Way(
        lambda p: folder_opens(damaged(p / "images")), "replace the files", lambda p: folder_opens(tree(p / "images"))
    ),
    "images of two sizes": Way(
        lambda p: folder_opens(of_two_sizes(p / "images")),
        "give --image-size, such as 224",
        lambda p: folder_opens(p / "images", image_size=224),
    ),
    "one image": Way(
        lambda p: folder_opens(tree(p / "images", 1)),
        "and too few to keep any from training",
        lambda p: [folder_opens(tree(p / "images", 5)), folder_opens(divided(p / "two", "abc"))],
    ),
    "one array": Way(
        lambda p: opens(archive(p / "a.npz", images=PIXELS[:1], labels=LABELS[:1]), classes=2),
        "and too few to keep any from training",
        lambda p: opens(archive(p / "a.npz", **four(PIXELS[:1], LABELS[:1])), classes=2),
    ),
    "no folder": Way(
        lambda p: folder_opens(p / "imges"),
        "give the one that holds the images",
        lambda p: folder_opens(tree(p / "images")),
    ),
    "no images": Way(
        lambda p: folder_opens(without_images(p / "images")),
        "holds no JPEG, PNG or WebP images",
        lambda p: folder_opens(tree(p / "images" / "pictures")),
    ),
    "no images to train on": Way(
        lambda p: [without_images(p / "images" / "train"), folder_opens(tree(p / "images" / "val").parent)],
        "holds no JPEG, PNG or WebP images",
        lambda p: folder_opens(p / "images" / "val"),
    ),
    "other classes": Way(
        lambda p: folder_opens(divided(p / "images", "de")),
        "give a class the same name in both",
        lambda p: [(p / "images/val/d").rename(p / "images/val/a"), folder_opens(p / "images")],
    ),
}


def test_all_sentences_are_followed() -> None:
    require_all(WAYS, TEST)


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path, TEST)


def test_a_folder_that_may_not_be_read_gets_other_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    tree(tmp_path / "images")
    with monkeypatch.context() as locked:
        locked.setattr(Path, "iterdir", refuse)
        with pytest.raises(UserError, match=r"Permission denied; name another one, or change its permissions"):
            folder_opens(tmp_path / "images")
    folder_opens(tmp_path / "images")
