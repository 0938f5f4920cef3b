from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import picture, write, write_tree

from qkd_deploy.data import Chain, ImageDataset, Split, StreamedSplit, load_dataset
from qkd_deploy.data.sets import assemble
from qkd_deploy.errors import UserError


def opened(path: Path, **options: object) -> ImageDataset:
    return load_dataset(f"imagefolder:{path}", workers=0, **options)  # type: ignore[arg-type]


def pixels(seed: int) -> torch.Tensor:
    """The image [C, H, W] that was written with this seed."""
    return torch.from_numpy(np.asarray(picture(seed)).transpose(2, 0, 1).copy())


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "test"])
def test_train_and_held_out_folders_with_classes(held_out: str, tmp_path: Path) -> None:
    write_tree(tmp_path / "train", 4)
    write_tree(tmp_path / held_out, 2)
    data = opened(tmp_path)
    assert data.classes == ("a", "b", "c")
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.train.image_shape == (3, 12, 12)
    assert data.known_as == data.name == f"imagefolder:{tmp_path.name}"
    assert data.notes == ()
    assert isinstance(data.train, Split)
    assert torch.equal(data.train.images[5], pixels(1001))


def test_class_folders_without_a_division_hold_out_every_fifth_image(tmp_path: Path) -> None:
    data = opened(write_tree(tmp_path, 10))
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.train.labels.bincount().tolist() == [8, 8, 8]
    expected = [pixels(seed) for seed in (2, 7, 1002)]
    assert all(torch.equal(a, b) for a, b in zip(data.test.images[:3], expected, strict=True))
    assert opened(tmp_path).fingerprint == data.fingerprint


def test_a_training_folder_alone_is_divided(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", 5)
    (tmp_path / "val").mkdir()
    assert len(opened(tmp_path).test) == 3


@pytest.mark.parametrize("below", ["", "train", "train/all"])
def test_images_without_classes_are_unlabelled(below: str, tmp_path: Path) -> None:
    for index in range(10):
        write(tmp_path / below / f"{index}.png", index)
    data = opened(tmp_path, classes=4)
    assert (data.train.labelled, data.test.labelled) == (False, False)
    assert set(data.train.labels.tolist()) == {-1} and len(data.test) == 2
    assert data.classes == ("0", "1", "2", "3")
    with pytest.raises(UserError, match="no labels that tell the number of classes; give it as --classes"):
        opened(tmp_path)


@pytest.mark.parametrize("below", ["", "all"])
def test_unlabelled_training_images_take_the_classes_of_the_held_out_ones(below: str, tmp_path: Path) -> None:
    for index in range(6):
        write(tmp_path / "train" / below / f"{index}.png", index)
    write_tree(tmp_path / "val", 2)
    data = opened(tmp_path)
    assert (data.train.labelled, data.test.labelled) == (False, True)
    assert data.classes == ("a", "b", "c")
    assert len(data.train) == 6 and data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_held_out_folder_without_classes_does_not_help(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", 5)
    write(tmp_path / "val" / "x.png", 1)
    data = opened(tmp_path)
    assert len(data.test) == 3 and data.test.labelled
    assert "has no classes and is left out" in data.notes[0]


def test_what_is_in_the_way_is_left_out_and_said(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", 3)
    write_tree(tmp_path / "val", 1, classes="abcd")
    (tmp_path / "train" / "empty").mkdir()
    write(tmp_path / "train" / "loose.png", 1)
    write(tmp_path / "train" / "a" / ".hidden.png", 1)
    write(tmp_path / "train" / ".cache" / "x.png", 1)
    write(tmp_path / "train" / "__MACOSX" / "x.png", 1)
    (tmp_path / "train" / "a" / "Thumbs.db").write_bytes(b"x")
    data = opened(tmp_path)
    assert len(data.train) == 9
    assert data.classes == ("a", "b", "c", "d")
    assert data.notes == (
        "class folders without images are left out: empty",
        "1 images beside the class folders are left out, first loose.png",
        "class d has no training images",
    )


def test_images_deep_in_a_class_folder_and_behind_links_count(tmp_path: Path) -> None:
    store = write_tree(tmp_path / "store", 4, classes="xy")
    root = tmp_path / "data"
    write(root / "a" / "deep" / "1.png", 1)
    (root / "a" / "link.png").symlink_to(store / "x" / "000.png")
    (root / "a" / "broken.png").symlink_to(store / "nowhere.png")
    (root / "a" / "loop").symlink_to(root)
    (root / "b").symlink_to(store / "y")
    data = opened(root)
    assert (data.train.labels == 0).sum() + (data.test.labels == 0).sum() == 2
    assert len(data.train) + len(data.test) == 6
    assert data.notes == (
        "1 of 7 images cannot be read and are left out, first a/broken.png (No such file or directory)",
    )


def damage(root: Path, count: int) -> list[str]:
    """Wreck some images of a folder, in several ways; returns their paths from the folder."""
    files = sorted(root.rglob("*.png"))
    step = len(files) // count
    files = files[step // 2 :: step][:count]
    for number, file in enumerate(files):
        content = file.read_bytes()
        file.write_bytes([b"", b"no image", content[:100], content[: len(content) // 2]][number % 4])
    return [file.relative_to(root).as_posix() for file in files]


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_images_in_memory_are_left_out_and_counted(workers: int, tmp_path: Path) -> None:
    write_tree(tmp_path / "train", 20)
    write_tree(tmp_path / "val", 2)
    names = damage(tmp_path / "train", 10)
    data = load_dataset(f"imagefolder:{tmp_path}", workers=workers)
    assert len(data.train) == 50 and len(data.test) == 6
    (note,) = data.notes
    assert note.startswith(f"10 of 66 images cannot be read and are left out, first train/{names[0]} (")
    with pytest.raises(UserError, match=rf"cannot read the image train/{names[0]} \(.*\); remove or replace it, or"):
        load_dataset(f"imagefolder:{tmp_path}", workers=workers, strict=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_images_of_a_stream_are_replaced_and_counted(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "train", 20)
    write_tree(tmp_path / "val", 2)
    names = damage(tmp_path / "train", 10)
    whole = opened(tmp_path)
    monkeypatch.setattr(assemble, "MEMORY_BYTES", 0)
    data = load_dataset(f"imagefolder:{tmp_path}", workers=workers)
    assert isinstance(data.train, StreamedSplit)
    assert len(data.train) == 60 and data.notes == ()
    images, labels = map(torch.cat, zip(*data.train.read(torch.arange(60).split(16)), strict=True))
    (note,) = data.notes
    assert note.startswith(
        f"10 of 66 images cannot be read and are replaced by their neighbours, first train/{names[0]} ("
    )
    paths = sorted((tmp_path / "train").rglob("*.png"))
    bad = [index for index, path in enumerate(paths) if path.relative_to(tmp_path / "train").as_posix() in names]
    good = [index for index in range(60) if index not in bad]
    assert torch.equal(images[good], whole.train.images)
    for index in bad:
        following = next(place % 60 for place in range(index + 1, index + 60) if place % 60 in good)
        assert torch.equal(images[index], images[following]) and labels[index] == labels[following]
    strict = load_dataset(f"imagefolder:{tmp_path}", workers=workers, strict=True)
    with pytest.raises(UserError, match=f"cannot read the image train/{names[0]}"):
        list(strict.train.read(torch.arange(60).split(16)))


@pytest.mark.parametrize("memory", [0, 2**30])
def test_nothing_but_corrupt_images_is_an_error(memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "MEMORY_BYTES", memory)
    write_tree(tmp_path, 5)
    damage(tmp_path, 15)
    with pytest.raises(UserError, match=r"none of .* images looked at can be read; replace the files"):
        opened(tmp_path)
    with pytest.raises(UserError, match=r"none of the 12 images can be read, such as .*png \(.*\); replace the files"):
        data = opened(tmp_path, image_size=8)
        next(data.train.read([torch.arange(3)]))


def test_sizes_and_colours_follow_the_images(tmp_path: Path) -> None:
    write_tree(tmp_path / "wide", 5, size=(16, 8))
    assert opened(tmp_path / "wide").train.image_shape == (3, 8, 16)
    for index in range(10):
        write(tmp_path / "grey" / "ab"[index % 2] / f"{index}.png", index, mode="L")
    assert opened(tmp_path / "grey").train.image_shape == (1, 12, 12)
    write(tmp_path / "grey" / "a" / "colour.png", 1)
    assert opened(tmp_path / "grey").train.image_shape == (3, 12, 12)


def test_images_of_different_sizes_need_a_size(tmp_path: Path) -> None:
    write_tree(tmp_path, 5)
    write(tmp_path / "a" / "large.jpg", 1, (300, 200))
    with pytest.raises(UserError, match=r"different sizes \(12x12, 300x200, ...\); give --image-size, such as 224"):
        opened(tmp_path)
    data = opened(tmp_path, image_size=10)
    assert data.train.image_shape == data.test.image_shape == (3, 10, 10)


def test_what_is_no_data_set_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*nowhere; give the one that holds the images"):
        opened(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no JPEG, PNG or WebP images"):
        opened(tmp_path)
    write(tmp_path / "a" / "1.png", 1)
    write(tmp_path / "b" / "1.png", 1)
    with pytest.raises(UserError, match="no held-out images, and too few to keep any from training"):
        opened(tmp_path)
    (tmp_path / "train").mkdir()
    write_tree(tmp_path / "val", 1)
    with pytest.raises(UserError, match="train holds no JPEG, PNG or WebP images"):
        opened(tmp_path)
    with pytest.raises(UserError, match="takes no argument 'size'"):
        load_dataset(f"imagefolder:{tmp_path}", args={"size": 3})


def test_relative_paths_start_at_the_data_folder(tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", 5)
    assert load_dataset("imagefolder:pets", tmp_path, workers=0).name == "imagefolder:pets"
    assert load_dataset("imagefolder:", tmp_path / "pets", workers=0).name == "imagefolder:pets"


def test_large_photographs_are_cropped_and_small_ones_shifted(tmp_path: Path) -> None:
    data = opened(write_tree(tmp_path, 5), image_size=96)
    assert isinstance(data.augmentation, Chain)
    assert opened(tmp_path, image_size=64).augmentation.pad == 8  # type: ignore[attr-defined]


@pytest.mark.parametrize(("train", "held_out"), [("ab", "cd"), ("ab", "xyz"), ("abc", "de")])
def test_class_folders_without_a_common_name_are_refused(train: str, held_out: str, tmp_path: Path) -> None:
    write_tree(tmp_path / "train", 3, classes=train)
    write_tree(tmp_path / "val", 2, classes=held_out)
    with pytest.raises(UserError, match=rf"such as '{train[0]}', and those held out, such as '{held_out[0]}', have no"):
        opened(tmp_path)
