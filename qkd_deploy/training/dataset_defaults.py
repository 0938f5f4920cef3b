"""Defaults that depend on the data set: an engineer should get a good model without giving any."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

# The embedded digits are the first thing a new user trains: less than a minute on one core. The phases keep the paper's
# ratio (30 : 100 : 70).
_DIGITS: dict[str, Any] = {
    "model": "resnet8",
    "teacher": "resnet20",
    "epochs": (6, 20, 14),
    "pretrain_epochs": 20,
    "teacher_pretrain_epochs": 20,
    "teacher_feature_epochs": 3,
    "batch_size": 64,
    # 8x8 pixels do not keep a second core busy: threads would wait for each other, badly so on a busy machine.
    "threads": 1,
}

DATASET_DEFAULTS = MappingProxyType({"digits": _DIGITS})
"""By data set the settings of ``TrainConfig`` that replace its general defaults."""


def defaults_for(dataset: str) -> dict[str, Any]:
    """Settings of ``TrainConfig`` that replace its general defaults for ``dataset``; empty for most."""
    return dict(DATASET_DEFAULTS.get(dataset, {}))
