"""Texts of a bundle with places to fill in."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def rendered(template: str, **words: Any) -> str:
    """Fill in a template of this folder."""
    environment = Environment(  # nothing is HTML here, so nothing is escaped as HTML
        loader=PackageLoader("qkd_deploy.handoff"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["literal"] = _literal
    return environment.get_template(template).render(**words)


def _literal(value: float, suffix: str = "") -> str:
    """A number as languages write floats."""
    return f"{float(value)!r}{suffix}"
