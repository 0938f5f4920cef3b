"""Batch norms that join the layer in front, and those that do not."""

from __future__ import annotations

from rewriting import assert_becomes, assert_stays
from torch import nn

from qkd_deploy.graph.passes.fold_batch_norms import fold_batch_norms

MODEL = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 1), "fc": nn.Linear(3, 4), "bn": nn.BatchNorm2d(4)})


def test_a_batch_norm_that_alone_reads_a_layer_joins_it() -> None:
    assert_becomes(
        fold_batch_norms,
        """
        %x: f32[2?, 3, 8, 8] = input()
        %conv: f32[2?, 4, 8, 8] = conv(%x) {target='conv'}
        %bn: f32[2?, 4, 8, 8] = batch_norm(%conv) {target='bn', reason='it stays in float'}
        %relu: f32[2?, 4, 8, 8] = clip(%bn) {clip=(0.0, inf)}
        return (%relu, [%bn])
        """,
        """
        %x: f32[2?, 3, 8, 8] = input()
        %conv: f32[2?, 4, 8, 8] = conv(%x) {target='conv', batch_norm='bn'}
        %relu: f32[2?, 4, 8, 8] = clip(%conv) {clip=(0.0, inf)}
        return (%relu, [%conv])
        """,
        MODEL,
    )


def test_a_layer_that_is_read_elsewhere_keeps_its_value() -> None:
    graph = """
        %x: f32[2?, 3, 8, 8] = input()
        %conv: f32[2?, 4, 8, 8] = conv(%x) {target='conv'}
        %bn: f32[2?, 4, 8, 8] = batch_norm(%conv) {target='bn'}
        return SUM
        """
    assert_stays(fold_batch_norms, graph.replace("SUM", "(%bn, %conv)"), MODEL)
    other = "%sum: f32[2?, 4, 8, 8] = add(%bn, %conv)\n        return %sum"
    assert_stays(fold_batch_norms, graph.replace("return SUM", other), MODEL)


def test_tokens_are_no_channels_although_there_are_as_many() -> None:
    assert_stays(
        fold_batch_norms,
        """
        %x: f32[2?, 4, 3] = input()
        %fc: f32[2?, 4, 4] = linear(%x) {target='fc'}
        %bn: f32[2?, 4, 4] = batch_norm(%fc) {target='bn'}
        return %bn
        """,
        MODEL,
    )
