"""Where clips go: into the node in front, also across data movement."""

from __future__ import annotations

import pytest
from rewriting import assert_becomes, assert_stays

from qkd_deploy.graph.ops import OPERATORS
from qkd_deploy.graph.passes.fuse_clips import fuse_clips

ABSORBING = (
    *("conv", "linear", "add", "mul", "matmul", "concat", "avg_pool", "uneven_avg_pool", "global_avg_pool"),
    *("leaky_relu", "batch_norm", "bilinear"),
)
MOVING = ("max_pool", "reshape", "transpose", "dropout")


@pytest.mark.parametrize("kind", ABSORBING)
def test_clips_become_one_range_of_what_absorbs_them(kind: str) -> None:
    assert_becomes(
        fuse_clips,
        f"""
        %x: f32[2?, 4, 8, 8] = input()
        %f: f32[2?, 4, 8, 8] = {kind}(%x)
        %relu: f32[2?, 4, 8, 8] = clip(%f) {{clip=(0.0, inf)}}
        %clamp: f32[2?, 4, 8, 8] = clip(%relu) {{clip=(-1.0, 6.0)}}
        return [%clamp]
        """,
        f"""
        %x: f32[2?, 4, 8, 8] = input()
        %f: f32[2?, 4, 8, 8] = {kind}(%x) {{clip=(0.0, 6.0)}}
        return [%f]
        """,
    )


@pytest.mark.parametrize("kind", MOVING)
def test_a_clip_crosses_data_movement_to_what_absorbs_it(kind: str) -> None:
    assert_becomes(
        fuse_clips,
        f"""
        %x: f32[2?, 4, 8, 8] = input()
        %f: f32[2?, 4, 8, 8] = conv(%x)
        %one: f32[2?, 4, 4, 4] = max_pool(%f)
        %two: f32[2?, 64] = {kind}(%one)
        %relu: f32[2?, 64] = clip(%two) {{clip=(0.0, inf)}}
        %sum: f32[2?, 64] = add(%relu, %relu)
        return (%sum, %relu)
        """,
        f"""
        %x: f32[2?, 4, 8, 8] = input()
        %f: f32[2?, 4, 8, 8] = conv(%x) {{clip=(0.0, inf)}}
        %one: f32[2?, 4, 4, 4] = max_pool(%f)
        %two: f32[2?, 64] = {kind}(%one)
        %sum: f32[2?, 64] = add(%two, %two)
        return (%sum, %two)
        """,
    )


def test_dropout_rescales_so_that_only_relu_commutes_with_it() -> None:
    assert_stays(
        fuse_clips,
        """
        %x: f32[2?, 4] = input()
        %f: f32[2?, 4] = linear(%x)
        %dropout: f32[2?, 4] = dropout(%f)
        %relu6: f32[2?, 4] = clip(%dropout) {clip=(0.0, 6.0)}
        return %relu6
        """,
    )


@pytest.mark.parametrize("read", ["%f", "%moved"])
def test_a_value_that_is_read_in_full_stays_unclipped(read: str) -> None:
    assert_stays(
        fuse_clips,
        f"""
        %x: f32[2?, 4] = input()
        %f: f32[2?, 4] = linear(%x)
        %moved: f32[2?, 4] = reshape(%f)
        %relu: f32[2?, 4] = clip(%moved) {{clip=(0.0, inf)}}
        return (%relu, {read})
        """,
    )


@pytest.mark.parametrize("kind", sorted({*OPERATORS} - {*ABSORBING, *MOVING, "clip"}))
def test_a_clip_behind_anything_else_stays(kind: str) -> None:
    assert_stays(
        fuse_clips,
        f"""
        %x: f32[2?, 4] = input()
        %f: f32[2?, 4] = sigmoid(%x)
        %g: f32[2?, 4] = {kind}(%f)
        %clip: f32[2?, 4] = clip(%g) {{clip=(0.0, inf)}}
        return %clip
        """,
    )
