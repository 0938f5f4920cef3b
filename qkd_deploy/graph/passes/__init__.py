"""Graph to graph: what the exact rewrites are, and in which order they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qkd_deploy.graph.passes.batch_norms_as_depthwise import batch_norms_as_depthwise
from qkd_deploy.graph.passes.computed_weights import computed_weights
from qkd_deploy.graph.passes.context import PassContext
from qkd_deploy.graph.passes.fold_batch_norms import fold_batch_norms
from qkd_deploy.graph.passes.fold_channel_constants import fold_channel_constants
from qkd_deploy.graph.passes.fold_layer_norms import fold_layer_norms
from qkd_deploy.graph.passes.fold_normalization import fold_normalization
from qkd_deploy.graph.passes.fuse_clips import fuse_clips
from qkd_deploy.graph.passes.hoist_slices import hoist_slices
from qkd_deploy.graph.passes.invariants import StageLog
from qkd_deploy.graph.passes.name_tensors import name_tensors
from qkd_deploy.graph.passes.offsets_of_scores import offsets_of_scores
from qkd_deploy.graph.passes.softmax_as_exponentials import softmax_as_exponentials

__all__ = ["PIPELINE", "PassContext", "StageLog", "Step", "run_pipeline"]


@dataclass(frozen=True)
class Step:
    """One pass of the pipeline; ``integer_only`` passes are worth their cost only where integer kernels follow."""

    rewrite: Callable[[PassContext], None]
    integer_only: bool = False


PIPELINE = (
    Step(computed_weights),  # they are layers from here on
    Step(fold_normalization, integer_only=True),  # while only the user's own layers read the input
    Step(fold_batch_norms),
    Step(fold_channel_constants),  # behind them
    Step(batch_norms_as_depthwise, integer_only=True),  # those that no layer took
    Step(fuse_clips),  # behind batch norms, which stand between layers and their activation functions
    Step(hoist_slices),
    Step(name_tensors),  # names that later passes and placement give follow these
    Step(softmax_as_exponentials, integer_only=True),
    Step(offsets_of_scores, integer_only=True),  # of those exponentials
    Step(fold_layer_norms, integer_only=True),
)
"""All passes between lowering and placement, in order; each rewrites the graph in place and keeps what it computes."""


def run_pipeline(context: PassContext, log: StageLog, *, integer: bool) -> None:
    """Run the passes for integer placement, or for one in which kernels compute with floats."""
    for step in PIPELINE:
        if integer or not step.integer_only:
            step.rewrite(context)
            log.done(step.rewrite.__name__)
