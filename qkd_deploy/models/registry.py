"""Build networks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from qkd_deploy.errors import UserError, require_kind
from qkd_deploy.factory import Alias, Factory, build
from qkd_deploy.models.classifiers import CLASSIFIERS
from qkd_deploy.models.detector import Detector
from qkd_deploy.models.segmenter import Segmenter

MODELS: dict[str, Factory] = {**CLASSIFIERS, "detector": Detector, "segmenter": Segmenter}

_USUAL_CHANNELS = 3
"""The number of channels that every factory builds for unless told otherwise; torchvision's cannot be told."""


def model_names() -> list[str]:
    """List the names that `create_model` knows."""
    return list(MODELS)


def create_model(name: str, num_classes: int, in_channels: int = 3, args: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a network with fresh random weights (from torch's global generator), in training mode.

    Args:
        name: one of `model_names`, or ``package.module:factory``; the user's factory receives those of the keywords
            ``num_classes`` and ``in_channels`` (or ``in_chans``) that its signature accepts, and must return an
            ``nn.Module``. One that takes them only through ``**kwargs`` receives ``num_classes``, and ``in_chans``
            where the images have other than three channels, as timm's and torchvision's factories expect.
        num_classes: length of the logits, or of the scores of a place.
        in_channels: channels of the images.
        args: further keyword arguments, which the factory must accept.

    Raises:
        UserError: an unknown name, a factory that cannot be imported, called, or returns something else, or a
            count below 1.
    """
    require_kind(name, str, "the model", "give a name such as 'resnet20', or 'package.module:factory'")
    for what, count in (("classes", num_classes), ("channels", in_channels)):
        require_kind(count, int, f"the number of {what}", "give a whole number")
        if count < 1:
            raise UserError(f"a model with {count} {what} is impossible; give 1 or more")
    channels = Alias(in_channels, other="in_chans", through_kwargs=in_channels != _USUAL_CHANNELS)
    model = build("model", name, MODELS, args, num_classes=num_classes, in_channels=channels)
    if not isinstance(model, nn.Module):
        raise UserError(f"{name} returned a {type(model).__name__}; a model factory must return a torch.nn.Module")
    return model
