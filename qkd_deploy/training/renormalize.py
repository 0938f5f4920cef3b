"""Networks that were made for other pixels than a run's images are normalised to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qkd_deploy.pixels.normalization import Normalization


def renormalize(network: nn.Module, given: Normalization, wanted: Normalization, channels: int) -> None:
    """Let a network take images as ``given``, though it was made for ``wanted``; its parameters stay as they are.

    Args:
        network: called with images [N, C, H, W]; gets a hook.
        given: what the images come as.
        wanted: what it was made for.
        channels: of the images.
    """
    (gain, offset), (own_gain, own_offset) = (
        torch.tensor(value.for_channels(channels).affine, dtype=torch.float64) for value in (given, wanted)
    )
    factor = own_gain / gain
    shift = own_offset - offset * factor
    numbers = torch.stack([factor, shift]).float().view(2, -1, 1, 1)

    def converted(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        images, *rest = inputs
        by_channel = numbers.to(images.device)
        return (images * by_channel[0] + by_channel[1], *rest)

    network.register_forward_pre_hook(converted)
