"""CPU seconds of ``prepare`` for chains of 150 to 1,200 nodes, and how they grow.

    python benchmarks/prepare_time.py [--sizes 150 300 600 1200] [--json FILE]

A block is a convolution, a batch norm, an addition and a ReLU: four nodes, and work for several passes. The last column
is the ratio of times over the ratio of sizes, both to the line above: 1 where time is in proportion to nodes.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from qkd_deploy import prepare

_SIZES = (150, 300, 600, 1200)
_NODES_PER_BLOCK = 4
_REPEATS = 3


class Block(nn.Module):
    """``relu(bn(conv(x)) + x)`` on two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, of the shape of ``x``."""
        return self.relu(self.bn(self.conv(x)) + x)  # type: ignore[no-any-return]


def seconds(nodes: int) -> float:
    """CPU time of preparing a chain of that many nodes: the least of three."""
    network = nn.Sequential(*(Block() for _ in range(nodes // _NODES_PER_BLOCK)))
    times = []
    for _ in range(_REPEATS):
        before = time.process_time()
        prepare(network, "w4a4", torch.randn(2, 2, 4, 4))
        times.append(time.process_time() - before)
    return min(times)


def main() -> None:
    """Print one line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES, help="numbers of nodes")
    parser.add_argument("--json", type=Path, help="write the numbers, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds(options.sizes[0])  # imports and caches
    times = {size: seconds(size) for size in options.sizes}
    growth = [times[more] / times[less] / (more / less) for less, more in pairwise(options.sizes)]
    print("nodes  CPU s  growth")
    for (size, taken), grown in zip(times.items(), [1.0, *growth], strict=True):
        print(f"{size:5}  {taken:5.2f}  {grown:6.2f}")
    if options.json:
        options.json.write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
