"""Batch norms on their own, as depthwise convolutions of ones."""

from __future__ import annotations

from rewriting import assert_becomes, assert_stays
from torch import nn

from qkd_deploy.graph.passes.batch_norms_as_depthwise import batch_norms_as_depthwise, is_channel_identity
from qkd_deploy.quantizers.batch_norm import BatchNorm


def network(norm: nn.Module) -> nn.Module:
    assert isinstance(norm, BatchNorm)
    return nn.ModuleDict({"bn": norm})


def test_images_pass_through_a_kernel_of_ones() -> None:
    model = network(nn.BatchNorm2d(4))
    assert_becomes(
        batch_norms_as_depthwise,
        """
        %x: f32[2?, 4, 8, 8] = input()
        %bn: f32[2?, 4, 8, 8] = batch_norm(%x) {target='bn', reason='it stays in float'}
        %again: f32[2?, 4, 8, 8] = batch_norm(%bn) {target='bn'}
        return %again
        """,
        """
        %x: f32[2?, 4, 8, 8] = input()
        %bn: f32[2?, 4, 8, 8] = conv(%x) {target='bn.channels', batch_norm='bn'}
        %again: f32[2?, 4, 8, 8] = conv(%bn) {target='bn.channels', batch_norm='bn'}
        return %again
        """,
        model,
    )
    assert (
        is_channel_identity(model.get_submodule("bn.channels")) and not model.get_submodule("bn.channels").state_dict()
    )


def test_features_become_sequences_of_one_element() -> None:
    assert_becomes(
        batch_norms_as_depthwise,
        """
        %x: f32[2?, 4] = input()
        %bn: f32[2?, 4] = batch_norm(%x) {module='bn', target='bn'}
        return %bn
        """,
        """
        %x: f32[2?, 4] = input()
        %bn_column: f32[2?, 4, 1] = reshape(%x, -1) {label='bn.column', module='bn', target=torch.unsqueeze}
        %bn: f32[2?, 4, 1] = conv(%bn_column) {module='bn', target='bn.channels', batch_norm='bn'}
        %bn_row: f32[2?, 4] = reshape(%bn, -1) {label='bn.row', module='bn', target=torch.squeeze}
        return %bn_row
        """,
        network(nn.BatchNorm1d(4)),
    )


def test_volumes_stay_in_float() -> None:
    assert_stays(
        batch_norms_as_depthwise,
        """
        %x: f32[4, 2, 2, 2, 2] = input()
        %bn: f32[4, 2, 2, 2, 2] = batch_norm(%x) {target='bn'}
        return %bn
        """,
    )
