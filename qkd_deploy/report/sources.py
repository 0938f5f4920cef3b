"""Where the numbers of a report come from: the commands that give them, and the commits that ran."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkd_deploy.export.metadata import Metadata
from qkd_deploy.report.findings import Source
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.run_origin import read_origins
from qkd_deploy.workflows.next_command import model_option


@dataclass(frozen=True)
class Sources:
    """The commands of one report.

    Attributes:
        folder: of the run.
        config: its settings, with what the user gave in their place.
        machine: what ``provenance`` says of this report.
        model: the network that the user named; None where the checkpoint tells.
        images: as ``verify`` names them again; empty where it had no data set.
    """

    folder: Path
    config: TrainConfig
    machine: Mapping[str, Any]
    model: str | None
    images: tuple[str, ...]

    def of(self, file: Path | None, metadata: Metadata | None) -> dict[str, Source]:
        """By section, where its numbers come from."""
        own = self._now("codes, noise, and the time of each kernel", self.machine["command"])
        sources = {"training": self._training(), "codes": own}
        if file is None or metadata is None:
            return {**sources, "layers": self._now("layers and sizes", self._line("inspect", self._checkpoint))}
        export = self._line("export", *model_option(self.model), "--output", str(file), self._checkpoint)
        sources["export"] = Source("the exported file", export, f"version {metadata.version}")
        sources["verify"] = self._now("the proof", self._verify(file))
        sources["layers"] = self._now("layers and sizes", self._line("inspect", str(file)))
        against = ("--against", "fp32", "--checkpoint", self._checkpoint, *model_option(self.model))
        sources["speed"] = self._now("time of the whole file", self._line("bench", str(file), *against))
        sources["times"] = own
        return sources

    @property
    def _checkpoint(self) -> str:
        return str(self.folder / "model.pt")

    def _training(self) -> Source:
        """What was typed to train, where the run knows; else what repeats the training."""
        origins = read_origins(self.folder)
        if not origins:
            again = self._line("train", "--config", str(self.folder / "config.toml"), "--out", "runs/again")
            return Source("training, and the integer model's figures", again)
        first = origins[0]
        commits = " then ".join(dict.fromkeys(origin.commit for origin in origins))
        machine = str(first.cpu)
        return Source("training, and the integer model's figures", first.command, commits, first.date, machine)

    def _verify(self, file: Path) -> str:
        words = ["verify", str(file), *self.images]
        if Path(self._checkpoint).exists():
            words += ["--checkpoint", self._checkpoint, *model_option(self.model)]
        return self._line(*words)

    def _now(self, what: str, command: str) -> Source:
        machine = self.machine
        return Source(what, command, machine["commit"], machine["date"], machine["cpu"]["model"])

    @staticmethod
    def _line(*words: str) -> str:
        return shlex.join(["qkd-deploy", *words])
