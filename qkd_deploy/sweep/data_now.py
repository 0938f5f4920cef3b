"""Fingerprints of data as they are now, each read once for all entries that train on it."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

import torch

from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.groups import DataSource, Networks
from qkd_deploy.training.run_data import load_run_data

_DECISIVE = [item.name for kind in (DataSource, Networks) for item in fields(kind)]
"""Networks and their weights say how images are resized, and how many classes unlabelled ones have."""


class Fingerprints:
    """Looks up the fingerprint of the data that settings name."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, config: TrainConfig) -> str:
        """Read the data of a run, and hash them.

        Raises:
            UserError: they cannot be read.
        """
        settings = asdict(config)
        key = json.dumps({name: settings[name] for name in _DECISIVE})
        if key not in self._known:
            self._known[key] = load_run_data(config, torch.device("cpu")).dataset.fingerprint
        return self._known[key]
