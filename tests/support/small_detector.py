"""A small detector as off-the-shelf ones are written: distributions over 16 bins, anchors, boxes in pixels, scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import qkd_deploy as qkd
from qkd_deploy.graph.prepared import PreparedModel

BINS, CLASSES, PIXELS = 16, 3, 32


class Mean(nn.Module):
    """The mean of a distribution over bins, as a convolution with the numbers of the bins."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(BINS, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data.copy_(torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, _, places = x.shape
        mean: Tensor = self.conv(x.view(batch, 4, BINS, places).transpose(2, 1).softmax(1))
        return mean.view(batch, 4, places)


class Detector(nn.Module):
    """Maps in train mode; in eval mode boxes and scores [N, 4 + classes, places], and the maps."""

    shape: Any = None
    anchors = strides = torch.empty(0)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.boxes = nn.ModuleList(nn.Conv2d(c, 4 * BINS, 3, padding=1) for c in (8, 12))
        self.scores = nn.ModuleList(nn.Conv2d(c, CLASSES, 1) for c in (8, 12))
        self.mean = Mean()

    def forward(self, x: Tensor) -> Any:
        fine = torch.relu(self.stem(x))
        features = [fine, torch.relu(self.down(fine))]
        batch = x.shape[0]
        boxes, scores = (
            torch.cat(
                [layer(y).view(batch, layer.out_channels, -1) for layer, y in zip(layers, features, strict=True)], 2
            )
            for layers in (self.boxes, self.scores)
        )
        maps = {"boxes": boxes, "scores": scores}
        return maps if self.training else (self.decoded(boxes, scores, features), maps)

    def decoded(self, boxes: Tensor, scores: Tensor, features: list[Tensor]) -> Tensor:
        if self.shape != features[0].shape:
            self.anchors, self.strides, self.shape = *places(features), features[0].shape
        left_top, right_bottom = self.mean(boxes).chunk(2, 1)
        low, high = self.anchors - left_top, self.anchors + right_bottom
        box = torch.cat([(low + high) / 2, high - low], 1) * self.strides
        return torch.cat([box, scores.sigmoid()], 1)


def places(features: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Centers of all places of the maps, in places, and their distances in pixels."""
    points, strides = [], []
    for x, stride in zip(features, (2.0, 4.0), strict=True):
        height, width = x.shape[2:]
        rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        points.append(torch.stack([columns, rows]).view(2, -1))
        strides.append(torch.full((1, height * width), stride))
    return torch.cat(points, 1)[None], torch.cat(strides, 1)


def images(count: int, seed: int = 0) -> Tensor:
    """Images for it."""
    return torch.rand(count, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(seed))


def small_detector(seed: int = 0) -> nn.Module:
    """Its network with fresh weights, in eval mode."""
    torch.manual_seed(seed)
    return Detector().eval()


def prepared_detector(bits: str = "w8a8", seed: int = 0, **settings: Any) -> PreparedModel:
    """It with scales of a batch, in eval mode."""
    model = qkd.prepare(small_detector(seed), bits, (images(2),), **settings)
    qkd.initialize(model, images(4))
    return model.eval()
