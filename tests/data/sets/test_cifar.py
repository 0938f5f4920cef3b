from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qkd_deploy.data import load_dataset
from qkd_deploy.data.sets.cifar import CIFAR10, CIFAR100, load_cifar
from qkd_deploy.errors import UserError

# The same families with seven images in each file instead of ten or fifty thousand.
SMALL = {family.name: replace(family, train_images=7, test_images=7) for family in (CIFAR10, CIFAR100)}
LAYOUTS = [(family.name, layout.folder) for family in (CIFAR10, CIFAR100) for layout in family.layouts]
WriteLayout = Callable[..., Path]


@pytest.mark.parametrize(("family", "layout"), LAYOUTS)
def test_every_layout_is_found_in_the_folder_and_as_the_folder(
    family: str, layout: str, tmp_path: Path, write_layout: WriteLayout
) -> None:
    folder = write_layout(layout, tmp_path)
    within, itself = load_cifar(SMALL[family], tmp_path), load_cifar(SMALL[family], folder)
    assert within.fingerprint == itself.fingerprint
    assert within.known_as == f"{family} (copy {within.fingerprint})"
    assert within.augmentation.flip


@pytest.mark.parametrize("dump", ["py2", 2, 3, 4])
def test_cifar10_layouts_hold_the_same_images(dump: str | int, tmp_path: Path, write_layout: WriteLayout) -> None:
    write_layout("cifar-10-batches-bin", tmp_path / "bin")
    write_layout("cifar-10-batches-py", tmp_path / "py", dump)
    binary, pickled = (load_cifar(SMALL["cifar10"], tmp_path / part) for part in ("bin", "py"))
    assert binary.train.images.shape == (35, 3, 32, 32)
    assert binary.test.images.shape == (7, 3, 32, 32)
    assert binary.fingerprint == pickled.fingerprint
    assert binary.classes == pickled.classes == tuple(f"class {i}" for i in range(10))


@pytest.mark.parametrize("dump", ["py2", 2, 4])
def test_cifar100_layouts_hold_the_same_fine_labels(dump: str | int, tmp_path: Path, write_layout: WriteLayout) -> None:
    write_layout("cifar-100-binary", tmp_path / "bin")
    write_layout("cifar-100-python", tmp_path / "py", dump)
    binary, pickled = (load_cifar(SMALL["cifar100"], tmp_path / part) for part in ("bin", "py"))
    assert binary.fingerprint == pickled.fingerprint
    assert binary.test.labels.tolist() == pickled.test.labels.tolist() == list(range(90, 97))
    assert binary.classes == pickled.classes == tuple(f"fine {i}" for i in range(100))


def test_pixels_and_labels_arrive_in_file_order(tmp_path: Path, write_layout: WriteLayout) -> None:
    folder = write_layout("cifar-10-batches-bin", tmp_path)
    dataset = load_cifar(SMALL["cifar10"], tmp_path)
    record = (folder / "data_batch_2.bin").read_bytes()[: 1 + 3072]
    assert dataset.train.labels[7] == record[0]
    red, green, blue = np.frombuffer(record[1:], dtype=np.uint8).reshape(3, 32, 32)
    for plane, expected in zip(dataset.train.images[7], (red, green, blue), strict=True):
        assert np.array_equal(plane.numpy(), expected)


@pytest.mark.parametrize("layout", [folder for _, folder in LAYOUTS])
def test_missing_files_are_named(layout: str, tmp_path: Path, write_layout: WriteLayout) -> None:
    folder = write_layout(layout, tmp_path)
    family = SMALL["cifar100" if "100" in layout else "cifar10"]
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(UserError, match=f"lacks {file.name};"):
            load_cifar(family, tmp_path)
        file.write_bytes(content)


@pytest.mark.parametrize(("family", "layout"), LAYOUTS)
@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "text"])
def test_damaged_files_are_refused(
    family: str, layout: str, damage: str, tmp_path: Path, write_layout: WriteLayout
) -> None:
    folder = write_layout(layout, tmp_path)
    file = max(folder.iterdir(), key=lambda path: (path.stat().st_size, path.name))
    content = file.read_bytes()
    damaged = {"cut": content[:-100], "longer": content + b"x", "empty": b"", "text": b"<html>not found</html>"}
    file.write_bytes(damaged[damage])
    if damage == "longer" and not file.suffix:
        load_cifar(SMALL[family], tmp_path)  # a pickle ends at its own stop sign, bytes behind it mean nothing
        return
    with pytest.raises(UserError) as caught:
        load_cifar(SMALL[family], tmp_path)
    assert file.name in str(caught.value)
    assert "archive again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_real_sizes_are_expected_by_name(tmp_path: Path, write_layout: WriteLayout) -> None:
    write_layout("cifar-10-batches-bin", tmp_path)
    with pytest.raises(UserError, match=r"bytes instead of 30730000"):
        load_dataset("cifar10", tmp_path)
    write_layout("cifar-100-python", tmp_path)
    with pytest.raises(UserError, match="no 'data' of 50000 images"):
        load_dataset("cifar100", tmp_path)


def test_labels_and_names_beyond_the_classes_are_refused(tmp_path: Path, write_layout: WriteLayout) -> None:
    folder = write_layout("cifar-10-batches-bin", tmp_path)
    content = bytearray((folder / "test_batch.bin").read_bytes())
    content[0] = 10
    (folder / "test_batch.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"test_batch\.bin has a label above 9"):
        load_cifar(SMALL["cifar10"], tmp_path)
    (folder / "batches.meta.txt").write_text("only one\n")
    with pytest.raises(UserError, match="1 class names instead of 10"):
        load_cifar(SMALL["cifar10"], tmp_path)


@pytest.mark.parametrize(
    ("entry", "value"), [("labels", [1, 2]), ("labels", ["1"] * 7), ("labels", [-1] * 7), ("labels", None), ("data", 5)]
)
def test_foreign_entries_are_refused(entry: str, value: object, tmp_path: Path, write_layout: WriteLayout) -> None:
    folder = write_layout("cifar-10-batches-py", tmp_path)
    content = {"labels": [0] * 7, "data": np.zeros((7, 3072), np.uint8), entry: value}
    (folder / "data_batch_3").write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(UserError, match=f"data_batch_3 has no '{entry}'"):
        load_cifar(SMALL["cifar10"], tmp_path)


def test_absent_folders_and_data_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*nowhere; .*cifar-10-batches-bin or cifar-10-batches-py"):
        load_dataset("cifar10", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no cifar100; cannot download .*cifar-100-binary.tar.gz .*--data-dir"):
        load_dataset("cifar100", tmp_path)


@pytest.mark.parametrize(("layout", "algorithm"), [("cifar-100-binary", "sha1"), ("cifar-100-python", "md5")])
def test_files_with_the_publishers_checksums_are_the_original(
    layout: str, algorithm: str, tmp_path: Path, write_layout: WriteLayout
) -> None:
    folder = write_layout(layout, tmp_path)
    (known,) = (known for known in CIFAR100.layouts if known.folder == layout)
    digests = {
        name: f"{algorithm}:{hashlib.new(algorithm, (folder / name).read_bytes()).hexdigest()}"
        for name in known.digests
    }
    family = replace(SMALL["cifar100"], layouts=(replace(known, digests=digests),))
    original = load_cifar(family, tmp_path)
    assert original.known_as == "cifar100"
    assert replace(original, train=original.train.head(5)).known_as.startswith("cifar100 (copy ")
    other = replace(known, digests={**digests, known.test[0]: f"{algorithm}:0123"})
    assert load_cifar(replace(family, layouts=(other,)), tmp_path).known_as.startswith("cifar100 (copy ")


def test_checksums_of_the_publisher_cover_all_files_with_images() -> None:
    for layout in CIFAR100.layouts:
        assert list(layout.digests) == [*layout.train, *layout.test]


@pytest.mark.skipif(
    "QKD_DEPLOY_CIFAR10" not in os.environ, reason="QKD_DEPLOY_CIFAR10 names no folder with the binary layout"
)
def test_the_original_is_recognised_in_both_layouts(tmp_path: Path) -> None:
    original = load_dataset("cifar10", Path(os.environ["QKD_DEPLOY_CIFAR10"]))
    assert original.known_as == "cifar10"
    batches = (*original.train.images.split(10_000), original.test.images)
    labels = (*original.train.labels.split(10_000), original.test.labels)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(original.classes)}, protocol=2))
    for name, images, of_batch in zip(CIFAR10.layouts[1].files, batches, labels, strict=False):
        content = {"labels": of_batch.tolist(), "data": images.flatten(1).numpy()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    pickled = load_dataset("cifar10", tmp_path)
    assert pickled.known_as == "cifar10" and pickled.fingerprint == original.fingerprint


@pytest.mark.skipif(
    "QKD_DEPLOY_CIFAR10_JPEG" not in os.environ, reason="QKD_DEPLOY_CIFAR10_JPEG names no folder with that copy"
)
def test_the_known_copy_is_recognised() -> None:
    dataset = load_dataset("cifar10", Path(os.environ["QKD_DEPLOY_CIFAR10_JPEG"]))
    assert dataset.train.labels.bincount().tolist() == [5000] * 10
    assert dataset.known_as == "cifar10-jpeg"
