"""How far the offsets of scores, such as position biases and masks, spread the codes that exponentials are taken of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from qkd_deploy.graph.exact.add_scale import CodeRange
from qkd_deploy.graph.exact.rows import halved, halvings, sum_step, whole_steps
from qkd_deploy.graph.exact.unary import NOTHING
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.passes.constant_values import constant_value
from qkd_deploy.graph.prepared import PreparedModel


def with_offsets(prepared: PreparedModel, node: Node, operands: Sequence[CodeRange]) -> list[CodeRange]:
    """Give the operands of a node with the first one widened by what is added to its codes.

    What masks put so far below the largest score of its row that its exponential is nothing, whatever the scores are,
    has code 0 and needs no room.
    """
    scores, *others = operands
    names = node.inputs[1:]
    if not operator_of(node).adds_steps or not names:
        return [scores, *others]
    scale = torch.tensor(scores.scale, dtype=torch.float32)
    low, high = map(int, halved(torch.tensor([scores.lo, scores.hi]).float(), halvings(scale)))
    step = float(sum_step(scale))
    values = [constant_value(prepared.network, prepared.graph, name).read() for name in names]
    steps = sum((whole_steps(value.cpu(), torch.tensor(step)) for value in values), torch.zeros(1, 1))
    below = steps.amax(-1, keepdim=True) - steps
    felt = below[below <= high - low + math.ceil(NOTHING / step)]
    return [CodeRange(step, scores.zero_point, low - int(felt.max()), high), *others]
