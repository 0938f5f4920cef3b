"""Networks that have learned something of the digits, in seconds."""

from __future__ import annotations

import torch
from torch import nn

from qkd_deploy import create_model, load_dataset
from qkd_deploy.data import batches


def resnet8_of_two_epochs() -> nn.Module:
    """A ResNet-8 after two epochs, in evaluation mode; the same weights every time."""
    torch.manual_seed(0)
    network, generator = create_model("resnet8", 10, 1), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        for images, labels in batches(load_dataset("digits").train, 64, generator):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.eval()
