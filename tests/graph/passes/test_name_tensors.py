"""Labels become names, once each."""

from __future__ import annotations

from rewriting import assert_becomes

from qkd_deploy.graph.passes.name_tensors import name_tensors


def test_labels_become_names_and_equal_ones_are_counted() -> None:
    assert_becomes(
        name_tensors,
        """
        %x: f32[2?, 4] = input() {label='image'}
        %add: f32[2?, 4] = add(%x, %x) {label='block.add'}
        %add_1: f32[2?, 4] = add(%x, %add) {label='block.add'}
        %add_2: f32[2?, 4] = add(%add, %add_1) {label='block.add_2'}
        %add_3: f32[2?, 4] = concat([%add, %add_2], dim=1) {label='block.add'}
        return {'out': %add_3}
        """,
        """
        %image: f32[2?, 4] = input()
        %block.add: f32[2?, 4] = add(%image, %image)
        %block.add_2: f32[2?, 4] = add(%image, %block.add) {label='block.add'}
        %block.add_2_2: f32[2?, 4] = add(%block.add, %block.add_2) {label='block.add_2'}
        %block.add_3: f32[2?, 4] = concat([%block.add, %block.add_2_2], dim=1) {label='block.add'}
        return {'out': %block.add_3}
        """,
    )


def test_names_may_change_places() -> None:
    assert_becomes(
        name_tensors,
        """
        %x: f32[2?, 4] = input() {label='y'}
        %y: f32[2?, 4] = sigmoid(%x) {label='x'}
        return %y
        """,
        """
        %y: f32[2?, 4] = input()
        %x: f32[2?, 4] = sigmoid(%y)
        return %x
        """,
    )
