"""Networks that return maps: U-Nets, HRNet, a feature pyramid, detection heads, an autoencoder, super-resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.parts import conv_bn


class UNet(nn.Module):
    """``transposed``: upsampling by transposed convolutions, else to the nearest pixel."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = self._double(3, 8), self._double(8, 16), self._double(16, 24)
        self.pool = nn.MaxPool2d(2)
        self.up2: nn.Module = nn.ConvTranspose2d(24, 16, 2, stride=2) if transposed else self._nearest(24, 16)
        self.up1: nn.Module = nn.ConvTranspose2d(16, 8, 2, stride=2) if transposed else self._nearest(16, 8)
        self.conv2, self.conv1 = self._double(32, 16), self._double(16, 8)
        self.head = nn.Conv2d(8, 4, 1)

    @staticmethod
    def _double(in_width: int, width: int) -> nn.Sequential:
        return nn.Sequential(conv_bn(in_width, width), conv_bn(width, width))

    @staticmethod
    def _nearest(in_width: int, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), conv_bn(in_width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(self.pool(one))
        x = self.up2(self.bottom(self.pool(two)))
        x = self.up1(self.conv2(torch.cat([x, two], dim=1)))
        return self.head(self.conv1(torch.cat([x, one], dim=1)))  # type: ignore[no-any-return]


class HRNet(nn.Module):
    """Two resolutions side by side that exchange features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 3, 2)
        self.high, self.low = conv_bn(16, 16), nn.Sequential(conv_bn(16, 32, 3, 2), conv_bn(32, 32))
        self.up, self.down = conv_bn(32, 16, 1, activation=None), conv_bn(16, 32, 3, 2, activation=None)
        self.high2, self.low2 = conv_bn(16, 16), conv_bn(32, 32)
        self.head = nn.Conv2d(48, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        high, low = self.high(x), self.low(x)
        raised = F.interpolate(self.up(low), size=high.shape[-2:], mode="nearest")
        high, low = F.relu(high + raised), F.relu(low + self.down(high))
        low = F.interpolate(self.low2(low), scale_factor=2.0)
        return self.head(torch.cat([self.high2(high), low], 1))  # type: ignore[no-any-return]


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c3, self.c4, self.c5 = conv_bn(3, 16, 3, 2), conv_bn(16, 24, 3, 2), conv_bn(24, 32, 3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c3 = self.c3(x)
        c4 = self.c4(c3)
        return c3, c4, self.c5(c4)


class FeaturePyramid(nn.Module):
    """Returns a list of maps, the finest first."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.lateral = nn.ModuleList(nn.Conv2d(width, 16, 1) for width in (16, 24, 32))
        self.smooth = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        laterals = [conv(c) for conv, c in zip(self.lateral, self.backbone(x), strict=True)]
        for level in (1, 0):
            raised = F.interpolate(laterals[level + 1], scale_factor=2, mode="nearest")
            laterals[level] = laterals[level] + raised
        return [conv(p) for conv, p in zip(self.smooth, laterals, strict=True)]


class SingleShotDetector(nn.Module):
    """Boxes and scores of every place of two maps, concatenated: a dictionary, as detectors return in training."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.boxes = nn.ModuleList(nn.Conv2d(width, 2 * 4, 3, padding=1) for width in (24, 32))
        self.scores = nn.ModuleList(nn.Conv2d(width, 2 * 3, 3, padding=1) for width in (24, 32))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        _, c4, c5 = self.backbone(x)
        boxes = [self._flat(head(c), 4) for head, c in zip(self.boxes, (c4, c5), strict=True)]
        scores = [self._flat(head(c), 3) for head, c in zip(self.scores, (c4, c5), strict=True)]
        return {"boxes": torch.cat(boxes, dim=1), "scores": torch.cat(scores, dim=1)}

    @staticmethod
    def _flat(x: Tensor, values: int) -> Tensor:
        return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values)


class CenterHead(nn.Module):
    """An anchor-free head: heat map behind a sigmoid, sizes and offsets, as a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_bn(3, 16, 3, 2), conv_bn(16, 24, 3, 2), conv_bn(24, 24))
        self.heat, self.size, self.offset = (
            nn.Sequential(nn.Conv2d(24, 16, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(16, width, 1))
            for width in (3, 2, 2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.features(x)
        return torch.sigmoid(self.heat(x)), F.relu(self.size(x)), self.offset(x)


class Autoencoder(nn.Module):
    """Convolutions to a narrow code, transposed ones back to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv_bn(3, 16, 3, 2), conv_bn(16, 24, 3, 2), nn.Conv2d(24, 8, 1))
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(8, 16, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 3, 3, padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))  # type: ignore[no-any-return]


class SuperResolution(nn.Module):
    """Sub-pixel convolution, with a shortcut from the image raised to the nearest pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.tail, self.shuffle = nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        raised = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.shuffle(self.tail(self.body(x))) + raised  # type: ignore[no-any-return]
