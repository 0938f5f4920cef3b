"""What is added to scores and only moves their softmax joins the exponentials: position biases and masks.

    add(add(scores, bias), mask) -> exponential   becomes   exponential(scores, bias, mask)

On 8-bit grids of their own, sums with a mask of -100 would leave the scores a few codes. Beside the codes of the scores
offsets are whole numbers of their steps, of any size, so that sums are exact (decision 40). Masks of windows differ
between the windows of an image, which are part of the batch: they are added where the windows have a dimension.
"""

from __future__ import annotations

import torch
from torch import nn

from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.ops.arithmetic import ADD
from qkd_deploy.graph.ops.movement import RESHAPE
from qkd_deploy.graph.ops.normalization import EXPONENTIAL
from qkd_deploy.graph.passes.context import PassContext
from qkd_deploy.graph.passes.repeated_constants import once_an_image


def offsets_of_scores(context: PassContext) -> None:
    """Rewrite the operands of all exponentials."""
    for node in context.graph.nodes:
        if node.kind == EXPONENTIAL.name:
            while _take(context.model, context.graph, node):
                context.graph.remove_unneeded()


def _take(network: nn.Module, graph: Graph, exponential: Node) -> bool:
    """Take in the addition in front of the scores, or bring one nearer; False where there is none."""
    before = graph.node(exponential.inputs[0])
    if graph.only_user(before.name) is not exponential:
        return False
    if before.kind == ADD.name:
        return _take_addition(network, graph, exponential, before)
    return before.kind == RESHAPE.name and _pass_reshape(graph, exponential, before)


# -- additions ---------------------------------------------------------------------------------------------------------


def _take_addition(network: nn.Module, graph: Graph, exponential: Node, added: Node) -> bool:
    scores, offset = added.args
    if added.clip is not None or graph.node(scores.name).shape != added.shape:
        return False
    if offset.name not in graph.constants():
        single = once_an_image(network, graph, offset.name)
        if single is None:
            return False
        offset = Ref(single)
        _give_windows_a_dimension(graph, exponential, graph.node(single).sizes[0])
    exponential.args = (*exponential.args, *_terms(graph, offset))
    graph.remove(added, scores.name)
    return True


def _terms(graph: Graph, offset: Ref) -> tuple[Ref, ...]:
    """The terms of a sum of constants: a bias of all windows and a mask of all heads are small apart."""
    node = graph.node(offset.name)
    if node.kind != ADD.name or node.clip is not None:
        return (offset,)
    return tuple(term for operand in node.args for term in _terms(graph, operand))


def _give_windows_a_dimension(graph: Graph, exponential: Node, windows: int) -> None:
    """Let exponentials be of [images, windows, ...] instead of [images * windows, ...]."""
    if windows == 1:
        return
    scores, (first, *rest) = exponential.args[0], exponential.sizes
    apart = first // windows, windows, *rest
    before = _reshape(graph, f"{exponential.name}.windows", scores, apart)
    behind = _reshape(graph, f"{exponential.name}.joined", Ref(exponential.name), (first, *rest))
    graph.insert_after(exponential, behind)
    graph.replace_all_uses(exponential.name, behind.name)
    graph.insert_before(exponential, before)
    exponential.args, exponential.shape = (Ref(before.name), *exponential.args[1:]), apart


def _reshape(graph: Graph, label: str, x: Ref, shape: tuple[int, ...]) -> Node:
    """Make a reshape of a batch that is open in its first dimension."""
    name, module = graph.unused_name(label), graph.node(x.name).module
    args = (x, (-1, *shape[1:]))
    return Node(
        name, RESHAPE.name, args, label=label, module=module, target=torch.reshape, shape=shape, batch_dims=(0,)
    )


# -- reshapes between them ---------------------------------------------------------------------------------------------


def _pass_reshape(graph: Graph, exponential: Node, reshape: Node) -> bool:
    """Bring an addition of a constant in front of a reshape that keeps rows to the exponentials."""
    scores, *sizes = reshape.args
    added = graph.node(scores.name)
    if added.kind != ADD.name or graph.only_user(added.name) is not reshape or added.sizes[-1] != reshape.sizes[-1]:
        return False
    if len(exponential.args) == 1:  # exponentials of rows are the same in every shape
        exponential.args, exponential.shape, exponential.batch_dims = (scores,), added.shape, added.batch_dims
        graph.remove(reshape)
        graph.insert_after(exponential, reshape)
        graph.replace_all_uses(exponential.name, reshape.name)
        reshape.args = (Ref(exponential.name), *sizes)
        return True
    if not _broadcasts_behind(graph, added, reshape):
        return False
    before, offset = added.args
    reshape.args = (before, *sizes)
    graph.move_before(exponential, added)
    added.args, added.shape, added.batch_dims = (Ref(reshape.name), offset), reshape.shape, reshape.batch_dims
    exponential.args = (Ref(added.name), *exponential.args[1:])
    return True


def _broadcasts_behind(graph: Graph, added: Node, reshape: Node) -> bool:
    """True where a constant is the same for all that a reshape puts elsewhere."""
    offset, kept = graph.node(added.args[1].name), 0
    for one, two in zip(reversed(added.sizes), reversed(reshape.sizes), strict=False):
        if one != two:
            break
        kept += 1
    leading = offset.sizes[: max(0, len(offset.sizes) - kept)]
    fits = len(offset.sizes) <= len(reshape.sizes) and all(size == 1 for size in leading)
    return fits and offset.name in graph.constants()
