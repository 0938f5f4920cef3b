"""Data of Hugging Face's library from local files, without a network."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from image_files import picture, write_tree

from qkd_deploy.data import ImageDataset, StreamedSplit, load_dataset
from qkd_deploy.data.sets import assemble
from qkd_deploy.errors import UserError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def table(seeds: range, damaged: tuple[int, ...] = ()) -> Any:
    """Images by seed, whose classes go round."""
    cells = []
    for seed in seeds:
        buffer = io.BytesIO()
        picture(seed).save(buffer, "PNG")
        cells.append({"bytes": b"damaged" if seed in damaged else buffer.getvalue(), "path": None})
    features = datasets.Features({"photo": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog", "eel"])})
    return datasets.Dataset.from_dict({"photo": cells, "kind": [seed % 3 for seed in seeds]}, features=features)


def opened(path: Path, **options: Any) -> ImageDataset:
    return load_dataset(f"hf:{path}", **{"workers": 0, **options})


def test_saved_splits_are_opened(tmp_path: Path) -> None:
    datasets.DatasetDict(train=table(range(12)), test=table(range(20, 26))).save_to_disk(str(tmp_path / "saved"))
    data = opened(tmp_path / "saved")
    assert data.name == "hf:saved"
    assert data.classes == ("cat", "dog", "eel")
    assert data.train.labels.tolist() == [0, 1, 2] * 4 and data.test.labels.tolist() == [2, 0, 1] * 2
    expected = torch.tensor(list(picture(3).tobytes()), dtype=torch.uint8).view(12, 12, 3).permute(2, 0, 1)
    assert torch.equal(data.train.images_at(torch.tensor([3]))[0], expected)


def test_a_single_table_is_divided_and_streams_through_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(range(30), damaged=(4,)).save_to_disk(str(tmp_path / "saved"))
    memory = opened(tmp_path / "saved")
    assert (len(memory.train), len(memory.test)) == (23, 6)
    assert memory.notes == (
        "1 of 30 images cannot be read and are left out, first train[4] (no JPEG, PNG or WebP image)",
    )
    monkeypatch.setattr(assemble, "MEMORY_BYTES", 0)
    streams = opened(tmp_path / "saved", workers=2)
    assert isinstance(streams.train, StreamedSplit)
    assert torch.equal(streams.test.images_at(torch.arange(6)), memory.test.images_at(torch.arange(6)))
    assert streams.fingerprint == opened(tmp_path / "saved").fingerprint


def test_parquet_files_and_image_folders_are_opened(tmp_path: Path) -> None:
    (tmp_path / "parquet").mkdir()
    table(range(15)).to_parquet(str(tmp_path / "parquet" / "train.parquet"))
    assert opened(tmp_path / "parquet").classes == ("cat", "dog", "eel")
    write_tree(tmp_path / "folder" / "train", 4)
    write_tree(tmp_path / "folder" / "test", 2)
    data = opened(tmp_path / "folder")
    assert data.classes == ("a", "b", "c") and len(data.test) == 6


def test_tables_without_labels_need_a_number_of_classes(tmp_path: Path) -> None:
    table(range(10)).remove_columns("kind").save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UserError, match="give it as --classes"):
        opened(tmp_path / "saved")
    assert not opened(tmp_path / "saved", classes=3).train.labelled


def test_mistakes_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(range(10)).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UserError, match="has no column 'foto'; its columns are photo, kind"):
        opened(tmp_path / "saved", args={"image": "foto"})
    with pytest.raises(UserError, match="takes no argument 'size'; it takes image, label, config"):
        opened(tmp_path / "saved", args={"size": 3})
    with pytest.raises(UserError, match=r"cannot load hf:nobody/nothing \(.*\); check the name or the path") as caught:
        load_dataset("hf:nobody/nothing")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the library datasets; pip install 'qkd-deploy\[huggingface\]'"):
        opened(tmp_path / "saved")
