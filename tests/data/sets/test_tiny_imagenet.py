from __future__ import annotations

from pathlib import Path

import pytest
from image_files import write

from qkd_deploy.data import load_dataset
from qkd_deploy.errors import UserError

WNIDS = ["n01", "n02", "n03", "n04"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The layout of the publisher, with four classes instead of two hundred."""
    folder = tmp_path / "tiny-imagenet-200"
    for number, wnid in enumerate(WNIDS):
        for index in range(3):
            write(folder / "train" / wnid / "images" / f"{wnid}_{index}.JPEG", 10 * number + index)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("x\n")
    lines = []
    for index in range(8):
        write(folder / "val" / "images" / f"val_{index}.JPEG", 100 + index)
        lines.append(f"val_{index}.JPEG\t{WNIDS[index % 4]}\t0\t0\t9\t9\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    (folder / "words.txt").write_text("n01\tcrane, bird\nn02\tcrane\nn03\tgoldfish, Carassius\nn99\tother\n")
    return folder


def test_the_whole_set_is_read_in_the_order_of_its_files(root: Path) -> None:
    data = load_dataset("tiny-imagenet", root.parent, workers=0)
    assert data.name == "tiny-imagenet"
    assert data.known_as == f"tiny-imagenet (copy {data.fingerprint})"
    assert data.classes == ("n04", "goldfish", "crane (n02)", "crane (n01)")
    assert data.train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert data.test.labels.tolist() == [3, 2, 1, 0] * 2
    assert load_dataset("tiny-imagenet", root, workers=0).fingerprint == data.fingerprint


def test_a_part_of_the_classes_is_used_and_named(root: Path) -> None:
    for file in (root / "train" / "n02" / "images").iterdir():
        file.unlink()
    (root / "train" / "n03").rename(root / "elsewhere")
    data = load_dataset("tiny-imagenet", root.parent, workers=0)
    assert data.known_as == "tiny-imagenet (2 of 4 classes)"
    assert data.classes == ("n04", "crane")
    assert data.test.labels.tolist() == [1, 0, 1, 0]


def test_what_is_missing_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs --data-dir"):
        load_dataset("tiny-imagenet")
    with pytest.raises(UserError, match=r"holds no tiny-imagenet-200 with its wnids.txt"):
        load_dataset("tiny-imagenet", tmp_path / "val")
    annotations = root / "val" / "val_annotations.txt"
    content = annotations.read_text()
    annotations.write_text("val_0.JPEG\n")
    with pytest.raises(UserError, match=r"val_annotations.txt is damaged"):
        load_dataset("tiny-imagenet", root)
    annotations.write_text(content.replace("val_0", "../../val_0"))
    with pytest.raises(UserError, match=r"val_annotations.txt is damaged"):
        load_dataset("tiny-imagenet", root)
    annotations.unlink()
    with pytest.raises(UserError, match=r"val_annotations.txt cannot be read .No such file"):
        load_dataset("tiny-imagenet", root)
    (root / "train").rename(root / "elsewhere")
    with pytest.raises(UserError, match="images of fewer than two classes"):
        load_dataset("tiny-imagenet", root)
