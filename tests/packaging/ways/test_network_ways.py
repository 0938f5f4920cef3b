"""Ways out of networks that cannot be built, or are not said for which pixels: other sizes, factories and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from ways import Way, follow, require_all

import qkd_deploy as qkd
from qkd_deploy.checkpoints.torch_file import read_tensors, save_tensors
from qkd_deploy.models import create_model
from tests.packaging.ways import test_model_ways

TEST = "tests/packaging/ways/test_network_ways.py::test_the_way_out_works"
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def transformer(**sizes: int) -> Tensor:
    given = {"image_size": 8, "patch_size": 4, "width": 12, "depth": 1, **sizes}
    return create_model("vit_tiny", 5, 3, given)(IMAGES)  # type: ignore[no-any-return]


def weights(num_classes: int, in_channels: int) -> dict[str, Tensor]:
    return network(num_classes, in_channels).state_dict()


def network(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.Linear(144, num_classes))


def built(factory: Callable[..., object]) -> Tensor:
    return create_model(f"{__name__}:{factory.__name__}", 5, 3)(IMAGES)  # type: ignore[no-any-return]


def opened(folder: Path, **damage: Any) -> None:
    """Load a checkpoint after damage to how its pixels were normalised."""
    content = read_tensors(test_model_ways.saved(folder))
    content["quantization"]["normalization"] |= damage
    save_tensors(folder / "other.pt", content)
    qkd.freeze(qkd.load(folder / "other.pt", model=test_model_ways.network()))


WAYS: dict[str, Way] = {
    "patches that leave a rest": Way(
        lambda path: transformer(patch_size=3),
        "patches of {} pixels do not tile an image of {}; change patch_size",
        lambda path: [transformer(patch_size=size) for size in (2, 4, 8)],
    ),
    "channels that cannot be shared": Way(
        lambda path: transformer(heads=5),
        "{} heads cannot share {} channels evenly; change heads or width",
        lambda path: [transformer(heads=4), transformer(heads=5, width=15)],
    ),
    "a factory of weights": Way(
        lambda path: built(weights),
        "returned a {}; a model factory must return a torch.nn.Module",
        lambda path: built(network),
    ),
    "a damaged normalization": Way(
        lambda path: opened(path, mean=None),
        "{} is no normalization of pixels; use another file",
        lambda path: opened(path),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_way_out_works(way: str, tmp_path: Path) -> None:
    follow(WAYS[way], tmp_path, TEST)


def test_every_sentence_has_a_row() -> None:
    require_all(WAYS, TEST)
