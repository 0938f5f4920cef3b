"""Networks as backbones: the maps that their stages make, at halving sizes, for networks that find things in images.

A built-in classifier runs up to its pooling, and its parameters keep their names. Networks of the user's return their
maps themselves, as timm's do with ``features_only``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.errors import UserError
from qkd_deploy.factory import Alias, build
from qkd_deploy.models.classifiers import CLASSIFIERS
from qkd_deploy.models.efficientnet import EfficientNet
from qkd_deploy.models.mobilenetv2 import MobileNetV2

_PROBE = 64
"""Side in pixels of the image that shows which maps a network makes."""
_POOLING = "avgpool"
"""The module of built-in classifiers behind their last map."""
_STAGES = "features"
"""The sequence of built-in classifiers that holds all stages."""
_TIMM = "timm:"


class Backbone(nn.Module):
    """The chain of modules in front of a classifier's pooling; returns the last map of each size, largest first.

    Args:
        network: a built-in classifier; its modules are used, not copied, and keep their names.
        in_channels: channels of the images.
    """

    def __init__(self, network: nn.Module, in_channels: int) -> None:
        super().__init__()
        self._steps: list[str] = []
        for name, child in network.named_children():
            if name == _POOLING:
                break
            if isinstance(network, (MobileNetV2, EfficientNet)) and isinstance(child, nn.Sequential):
                child = child[:-1]  # the last convolution widens what only the classifier reads
            self.add_module(name, child)
            self._steps += _steps_of(name, child)
        self._ends = self._last_of_each_size(in_channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the maps [N, C, H / stride, W / stride] of float images [N, in_channels, H, W]."""
        maps, x = [], images
        for step in self._steps:
            x = self.get_submodule(step)(x)
            if step in self._ends:
                maps.append(x)
        return maps

    @torch.no_grad()
    def _last_of_each_size(self, in_channels: int) -> frozenset[str]:
        """Find the steps behind which the map becomes smaller."""
        last: dict[int, str] = {}
        self.eval()
        x = torch.zeros(1, in_channels, _PROBE, _PROBE)
        for step in self._steps:
            x = self.get_submodule(step)(x)
            last[x.shape[2]] = step
        self.train()
        return frozenset(last.values())


def _steps_of(name: str, child: nn.Module) -> list[str]:
    """Name the modules that run one after the other: those of the sequence of all stages, or the stage itself."""
    if name == _STAGES and isinstance(child, nn.Sequential):
        return [f"{name}.{index}" for index in range(len(child))]
    return [name]


def create_backbone(name: str, in_channels: int, args: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a network that returns a sequence of maps, with fresh random weights, in training mode.

    Args:
        name: a built-in classifier; or ``timm:NAME``, which is built with ``features_only``; or
            ``package.module:factory``, which is offered ``in_channels`` (or ``in_chans``) and makes a network that
            returns maps, largest first.
        in_channels: channels of the images.
        args: further keyword arguments of the factory.

    Raises:
        UserError: an unknown name, a classifier that makes no maps, or a factory that fails.
    """
    channels = Alias(in_channels, other="in_chans", through_kwargs=True)
    given = dict(args or {})
    if name.startswith(_TIMM):
        given |= {"model_name": name.removeprefix(_TIMM), "features_only": True, "in_chans": in_channels}
        name = f"{_TIMM}create_model"
    classes = {"num_classes": 1} if name in CLASSIFIERS else {}
    network = build("backbone", name, CLASSIFIERS, given, in_channels=channels, **classes)
    if not isinstance(network, nn.Module):
        raise UserError(f"{name} returned a {type(network).__name__}; a backbone's factory must return a network")
    if name not in CLASSIFIERS:
        return network
    if not hasattr(network, _POOLING):
        raise UserError(f"{name} makes no maps of several sizes; choose another backbone, such as resnet18")
    return Backbone(network, in_channels)


@torch.no_grad()
def maps_of(backbone: nn.Module, in_channels: int, name: str) -> dict[int, tuple[int, int]]:
    """Look which maps a backbone makes.

    Returns:
        by stride, in rising order, the last map of that stride: its place among the maps, and its channels.

    Raises:
        UserError: it takes no image of 64x64 pixels, or returns something else than maps.
    """
    backbone.eval()
    try:
        maps = backbone(torch.zeros(1, in_channels, _PROBE, _PROBE))
    except Exception as error:  # code of the user's raises what it likes
        raise UserError(
            f"{name} fails for an image of {_PROBE}x{_PROBE} pixels ({error}); choose another backbone"
        ) from error
    backbone.train()
    if not isinstance(maps, (list, tuple)) or not all(isinstance(item, Tensor) and item.dim() == 4 for item in maps):
        raise UserError(f"{name} returns no list of maps [N, C, H, W]; choose a backbone that does")
    return {_PROBE // item.shape[2]: (place, item.shape[1]) for place, item in enumerate(maps)}
