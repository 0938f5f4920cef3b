"""``KEY=VALUE`` on the command line: arguments for factories."""

from __future__ import annotations

from typing import Any

import click
import pytest

from qkd_deploy.cli.values import Argument


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("depth=3", 3),
        ("rate=0.5", 0.5),
        ("pretrained=false", False),
        ("sizes=[1, 2]", [1, 2]),
        ("table={a = 1}", {"a": 1}),
        ('name="two words"', "two words"),
        ('name="3x3"', "3x3"),
        ("name=resnet18", "resnet18"),
        ("name=vit_tiny.augreg-in21k", "vit_tiny.augreg-in21k"),
        ("file=/data/a=b.pt", "/data/a=b.pt"),
        ("file=../x y.pt", "../x y.pt"),
    ],
)
def test_values_are_toml_or_plain_words(text: str, expected: Any) -> None:
    key, value = Argument().convert(text, None, None)
    assert (key, value, type(value)) == (text.partition("=")[0], expected, type(expected))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("depth", "write KEY=VALUE"),
        ("=3", "write KEY=VALUE"),
        ("depth=", "write KEY=VALUE"),
        ("my-depth=3", "write KEY=VALUE"),
        ("pretrained=False", "write pretrained=false"),
        ("weights=None", "leave the argument out"),
        ("kernel=3x3", "'3x3' is no value"),
        ("sizes=[1, 2", "is no value"),
        ("day=2026-01-01", "is no value"),
        ("depth=3\nwidth=4", "is no value"),
        ("name=a\nwidth=4", "is no value"),
    ],
)
def test_everything_else_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(click.BadParameter, match="(?s)" + complaint.replace("[", r"\[")):
        Argument().convert(text, None, None)
