"""Streams are equal to images in memory, whatever the number of workers and processes, and follow one generator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import write_tree

from qkd_deploy.data import (
    Chain,
    ColourJitter,
    CropAndFlip,
    ImageDataset,
    Mixing,
    RandAugment,
    ResizedCrop,
    Split,
    StreamedSplit,
    Transform,
    batches,
    load_dataset,
)
from qkd_deploy.data.sets import assemble
from qkd_deploy.errors import UserError

Batches = list[tuple[torch.Tensor, torch.Tensor]]
AUGMENTATIONS: dict[str, Transform | None] = {
    "none": None,
    "crop": CropAndFlip(2, flip=True),
    "imagenet": Chain((ResizedCrop(), CropAndFlip(0, flip=True), ColourJitter())),
    "randaugment": Chain((CropAndFlip(2, flip=True), RandAugment())),
    "resized": ResizedCrop(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("stream"), 20, size=(20, 16))


def streamed(folder: Path, workers: int, size: int = 12) -> ImageDataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "MEMORY_BYTES", 0)
        return load_dataset(f"imagefolder:{folder}", workers=workers, image_size=size)


@pytest.fixture(scope="module")
def here(folder: Path) -> ImageDataset:
    return streamed(folder, 0)


@pytest.fixture(scope="module")
def workers(folder: Path) -> ImageDataset:
    return streamed(folder, 2)


@pytest.fixture(scope="module")
def memory(folder: Path) -> ImageDataset:
    return load_dataset(f"imagefolder:{folder}", workers=0, image_size=12)


def equal(left: Batches, right: Batches) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b) for pair in zip(left, right, strict=True) for a, b in zip(*pair, strict=True)
    )


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_evaluation_sees_what_is_in_memory(here: ImageDataset, workers: ImageDataset, memory: ImageDataset) -> None:
    assert isinstance(memory.train, Split) and isinstance(here.train, StreamedSplit)
    expected = list(batches(memory.train, 7))
    assert equal(list(batches(here.train, 7)), expected)
    assert equal(list(batches(workers.train, 7)), expected)
    indices = torch.tensor([5, 0, 47, 5])
    for data in (here, workers):
        assert torch.equal(data.train.images_at(indices), memory.train.images_at(indices))
        assert data.train.image_shape == memory.train.image_shape == (3, 12, 12)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_workers_change_nothing(name: str, here: ImageDataset, workers: ImageDataset) -> None:
    generators = [seeded(), seeded()]
    for _ in range(2):  # two epochs, with the same workers
        found = [
            list(batches(data.train, 10, generator, AUGMENTATIONS[name]))
            for data, generator in zip((here, workers), generators, strict=True)
        ]
        assert equal(*found)
        assert torch.equal(generators[0].get_state(), generators[1].get_state())


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_state_of_the_generator_continues_a_run(name: str, workers: ImageDataset) -> None:
    generator = seeded()
    list(batches(workers.train, 10, generator, AUGMENTATIONS[name]))
    state = generator.get_state()
    second = list(batches(workers.train, 10, generator, AUGMENTATIONS[name]))
    resumed = torch.Generator()
    resumed.set_state(state)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert equal(list(batches(workers.train, 10, resumed, AUGMENTATIONS[name])), second)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_that_is_left_early_spoils_nothing(here: ImageDataset, workers: ImageDataset) -> None:
    generators = [seeded(), seeded()]
    crop = AUGMENTATIONS["imagenet"]
    for data, generator in zip((here, workers), generators, strict=True):
        stream = batches(data.train, 10, generator, crop)
        next(stream)
        # In the middle of it, the same images are wanted for something else.
        assert torch.equal(data.train.images_at(torch.arange(3)), here.train.images_at(torch.arange(3)))
        next(stream)
        del stream
    found = [list(batches(data.train, 10, g, crop)) for data, g in zip((here, workers), generators, strict=True)]
    assert equal(*found)


@settings(max_examples=20)
@given(
    name=st.sampled_from(sorted(AUGMENTATIONS)),
    kind=st.sampled_from(["here", "memory"]),
    batch=st.integers(1, 15),
    world=st.integers(1, 5),
    mixed=st.booleans(),
)
def test_processes_see_together_what_one_would_see(
    name: str, kind: str, batch: int, world: int, mixed: bool, here: ImageDataset, memory: ImageDataset
) -> None:
    split = (here if kind == "here" else memory).train.head(13)
    mixing = Mixing(mixup=0.5, cutmix=0.5) if mixed else None
    batch = -(-batch // (2 * world)) * 2 * world if mixed else batch
    arguments = (AUGMENTATIONS[name], (0, 1), mixing, 3)
    alone = list(batches(split, batch, seeded(), *arguments))
    generators = [seeded() for _ in range(world)]
    parts = [
        list(batches(split, batch, generator, AUGMENTATIONS[name], (rank, world), mixing, 3))
        for rank, generator in enumerate(generators)
    ]
    whole = [tuple(map(torch.cat, zip(*part, strict=True))) for part in zip(*parts, strict=True)]
    last = -1 if mixed else None  # a small last batch has parts of odd size, whose last images stay alone
    assert equal(whole[:last], alone[:last])
    assert len(whole) == len(alone)
    assert len({tuple(generator.get_state().tolist()) for generator in generators}) == 1


def test_heads_and_devices(here: ImageDataset) -> None:
    assert len(here.train.head(5)) == 5 and len(here.train.head(500)) == 48
    moved = here.to("meta")
    assert moved.train.device.type == "meta"
    images, labels = next(batches(moved.train, 4))
    assert images.device.type == labels.device.type == "meta"


def test_fingerprints_of_streams_see_names_sizes_and_labels(folder: Path, here: ImageDataset, tmp_path: Path) -> None:
    assert streamed(folder, 2).fingerprint == here.fingerprint
    write_tree(tmp_path, 20, size=(20, 16))
    assert streamed(tmp_path, 0).fingerprint == here.fingerprint
    file = tmp_path / "b" / "007.png"
    file.write_bytes(file.read_bytes() + b" ")
    other = streamed(tmp_path, 0).fingerprint
    assert other != here.fingerprint
    file.rename(tmp_path / "b" / "0071.png")
    assert streamed(tmp_path, 0).fingerprint not in (other, here.fingerprint)


def test_odd_parts_of_mixed_batches_are_refused(memory: ImageDataset) -> None:
    with pytest.raises(UserError, match="a multiple of 4"):
        batches(memory.train, 10, seeded(), mixing=Mixing(mixup=1.0), classes=3, shard=(0, 2))
    with pytest.raises(ValueError, match="no part 2 of 2"):
        batches(memory.train, 10, shard=(2, 2))
