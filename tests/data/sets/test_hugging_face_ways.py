"""Ways out of Hugging Face data sets that cannot be opened."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from image_files import write
from ways import Way, follow, require_all

from qkd_deploy.data import load_dataset
from qkd_deploy.errors import UserError

datasets = pytest.importorskip("datasets")
TEST = "tests/data/sets/test_hugging_face_ways.py::test_the_way_out_works"


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def table(folder: Path, count: int, *, typed: bool = True) -> datasets.Dataset:
    """Paths of images in a column "photo", classes in a column "kind", and texts."""
    paths = [str(write(folder / f"{number}.png", number)) for number in range(count)]
    features = datasets.Features(
        photo=datasets.Image() if typed else datasets.Value("string"),
        kind=datasets.ClassLabel(names=["cat", "dog"]),
        title=datasets.Value("string"),
    )
    columns = {"photo": paths, "kind": [number % 2 for number in range(count)], "title": ["x"] * count}
    return datasets.Dataset.from_dict(columns, features=features)


def saved(folder: Path, *, typed: bool = True) -> str:
    """Save a table of ten rows; its name as a data set."""
    table(folder, 10, typed=typed).save_to_disk(str(folder / "saved"))
    return f"hf:{folder / 'saved'}"


def with_splits(folder: Path, **rows: int) -> str:
    """Save splits of that many rows; their name as a data set."""
    tables = datasets.DatasetDict({split: table(folder, count) for split, count in rows.items()})
    tables.save_to_disk(str(folder / "splits"), num_shards=dict.fromkeys(rows, 1))
    return f"hf:{folder / 'splits'}"


def opens(name: str, **args: str) -> None:
    data = load_dataset(name, workers=0, args=args)
    assert data.classes == ("cat", "dog") and len(data.train) and len(data.test)


WAYS: dict[str, Way] = {
    "an unknown argument": Way(
        lambda p: opens(saved(p), picture="photo"),
        "it takes {}",
        lambda p: opens(f"hf:{p / 'saved'}", image="photo"),
        advice="; it takes image, label, config",
    ),
    "no images": Way(
        lambda p: opens(saved(p, typed=False)),
        "name one with the argument image",
        lambda p: opens(f"hf:{p / 'saved'}", image="photo"),
    ),
    "no such column": Way(
        lambda p: opens(saved(p), image="foto"),
        "its columns are",
        lambda p: opens(f"hf:{p / 'saved'}", image="photo"),
        advice="; its columns are photo, kind, title",
    ),
    "labels that are texts": Way(
        lambda p: opens(saved(p), label="title"),
        "name another one as label",
        lambda p: opens(f"hf:{p / 'saved'}", label="kind"),
    ),
    "no rows": Way(
        lambda p: opens(with_splits(p, train=0, test=0)),
        "has no rows; name another data set",
        lambda p: opens(saved(p)),
    ),
    "no data": Way(
        lambda p: opens(f"hf:{p / 'save'}"), "check the name or the path, and the connection", lambda p: opens(saved(p))
    ),
}


def test_all_sentences_are_followed() -> None:
    require_all(WAYS, TEST)


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path, TEST)


def test_the_library_that_is_named_opens_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = saved(tmp_path)
    with monkeypatch.context() as absent:
        absent.setitem(sys.modules, "datasets", None)
        with pytest.raises(UserError, match=r"needs the library datasets; pip install 'qkd-deploy\[huggingface\]'"):
            opens(name)
    opens(name)


@pytest.mark.parametrize("splits", [{"train": 10, "test": 0}, {"train": 0, "validation": 10}])
def test_splits_without_rows_are_left_out(tmp_path: Path, splits: dict[str, int]) -> None:
    opens(with_splits(tmp_path, **splits))


def test_a_table_that_is_too_small_gets_a_split_to_hold_out(tmp_path: Path) -> None:
    few = table(tmp_path, 2)
    few.save_to_disk(str(tmp_path / "few"))
    with pytest.raises(UserError, match="or splits train and test"):
        opens(f"hf:{tmp_path / 'few'}")
    opens(with_splits(tmp_path, train=2, test=2))
