"""Options that name the images and the network of one command again, for the next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_VALUES = ("dataset", "task", "data_dir", "image_size", "workers")


def data_options(settings: Mapping[str, Any]) -> list[str]:
    """Write the settings of ``DataSource`` that ``verify`` cannot read in the file; what is not given is left out."""
    words = []
    for name in _VALUES:
        if settings.get(name) is not None:
            words += [f"--{name.replace('_', '-')}", str(settings[name])]
    for key, value in settings.get("dataset_args", {}).items():
        words += ["--dataset-arg", f"{key}={_toml(value)}"]
    return [*words, "--strict"] if settings.get("strict") else words


def model_option(name: str | None) -> list[str]:
    """Name a network of the user's again: only names that were typed are imported."""
    return ["--model", name] if name and ":" in name else []


def _toml(value: Any) -> str:
    """Write a value as TOML on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_toml(key)} = {_toml(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
