"""Turn FastestDet's published weights, which take BGR, into weights for RGB.

python -m fastestdet.weights fastestdet-coco.pth fastestdet.pt
"""

from __future__ import annotations

import sys

import torch

from fastestdet.network import FastestDet

FIRST = "backbone.first_conv.0.weight"


def main(source: str, target: str) -> None:
    """Read the weights, turn the channels of the first layer round, and write them."""
    state = torch.load(source, map_location="cpu", weights_only=True)
    network = FastestDet(state["detect_head.cls_layers.conv5x5.3.weight"].shape[0])
    network.load_state_dict({**state, FIRST: state[FIRST].flip(1)})
    torch.save(network.state_dict(), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
