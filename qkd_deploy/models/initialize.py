"""Random initial weights of the reference networks."""

from __future__ import annotations

from torch import nn


def kaiming_normal(model: nn.Module) -> None:
    """Draw convolution weights as He et al. (2015) do for ReLU networks, fan-out form, in place.

    Batch norms start as the identity and linear layers as PyTorch starts them. Uses torch's global generator.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def truncated_normal(model: nn.Module) -> None:
    """Draw the weights of linear layers and convolutions as vision transformers do, in place; biases become zero."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
