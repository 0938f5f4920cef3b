"""Gather what a report shows: from the files of a run, and from what its network and its exported file do."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qkd_deploy.bench.layers import KernelTime, kernel_times
from qkd_deploy.checkpoints.checkpoint import load_checkpoint
from qkd_deploy.checkpoints.records import TrainingRecord
from qkd_deploy.data import ImageDataset
from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata import Metadata, read_metadata
from qkd_deploy.gate.onnx_file import OnnxFile, read_exported
from qkd_deploy.provenance import provenance
from qkd_deploy.report.codes import codes_of
from qkd_deploy.report.data import data_of_run
from qkd_deploy.report.findings import Findings, Gap
from qkd_deploy.report.sources import Sources
from qkd_deploy.settings import declarations
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.groups import DataSource
from qkd_deploy.training.monitoring.metrics import EpochRecord, read_metrics
from qkd_deploy.training.run_folder import RunFolder, config_of_run
from qkd_deploy.verification.report import VerificationReport
from qkd_deploy.workflows.export import Trained, load_trained, verify_deployed
from qkd_deploy.workflows.inspect import Inspection, inspect_checkpoint, inspect_onnx
from qkd_deploy.workflows.next_command import data_options, model_option
from qkd_deploy.workflows.targets import require_for_onnx_runtime

Tell = Callable[[str], None]


def gather(
    folder: Path,
    file: Path | None = None,
    *,
    model: str | None = None,
    data: Mapping[str, Any] | None = None,
    limit: int = 1000,
    command: str = "qkd-deploy report",
    tell: Tell = lambda text: None,
) -> Findings:
    """Look at a run and its exported file.

    Args:
        folder: of the run, finished or not.
        file: exported from it; by default ``model.onnx`` in the folder, where there is one.
        model: the network, where it is the user's own.
        data: settings of ``DataSource`` that replace those of the run.
        limit: held-out images on which predictions are compared.
        command: what the user typed, for the report.
        tell: is told what is being done.

    Raises:
        UserError: there is no run, one of its files is damaged, or the file is another run's.
    """
    run = RunFolder(folder)
    if not run.config.exists():
        raise UserError(f"{folder} holds no run; give a folder that qkd-deploy train --out wrote")
    config = replace(config_of_run(folder), **(data or {}))
    named = file or _if_there(folder / "model.onnx")
    if named is not None:
        require_for_onnx_runtime(named)
    work = _Work(run, config, frozenset(data or {}), model, limit, tell)
    records = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    return work.findings(records, None if named is None else read_exported(named), command)


def _if_there(file: Path) -> Path | None:
    return file if file.is_file() else None


@dataclass
class _Work:
    """One report in the making; what cannot be shown becomes a gap."""

    run: RunFolder
    config: TrainConfig
    given: frozenset[str]
    model: str | None
    limit: int
    tell: Tell
    gaps: dict[str, Gap] = field(default_factory=dict)

    def findings(self, records: list[EpochRecord], file: OnnxFile | None, command: str) -> Findings:
        machine = provenance(command)
        trained = self._trained(records)
        metadata = None if file is None else read_metadata(file.model)
        if file is None:
            self._note_missing_file(trained)
        elif trained is not None and metadata is not None:
            _require_own(file, metadata, trained)
        data = None if trained is None and file is None else self._data(trained, metadata)
        verification = None if file is None else self._verified(file, data)
        sources = Sources(self.run.path, self.config, machine, self.model, self._images_again(data))
        return Findings(
            folder=self.run.path,
            config=self.config,
            records=records,
            training=None if trained is None else trained.checkpoint.training,
            start=self._start(),
            file=None if file is None else file.path,
            codes=None if trained is None else self._codes(trained, data),
            inspection=self._inspected(file, trained),
            verification=verification,
            times=self._times(file, verification),
            gaps=self.gaps,
            sources=sources.of(None if file is None else file.path, metadata),
            machine=machine,
        )

    def _trained(self, records: list[EpochRecord]) -> Trained | None:
        if self.run.student.exists():
            self.tell("reading the checkpoint")
            return load_trained(self.run.student, model=self.model)
        done = f"{len(records)} epochs are recorded" if records else "no epoch has ended yet"
        again = shlex.join(["qkd-deploy", "train", "--out", str(self.run.path), "--resume"])
        self.gaps["training"] = Gap(f"Training has not ended: {done}, and model.pt is written at the end.", again)
        return None

    def _note_missing_file(self, trained: Trained | None) -> None:
        if trained is None:
            self.gaps["file"] = Gap("Nothing can be proved before training has ended and a file was exported.")
            return
        path = str(self.run.path / "model.onnx")
        words = ["qkd-deploy", "export", *model_option(self.model), "--output", path, str(self.run.student)]
        self.gaps["file"] = Gap("There is no exported file to prove and to time. This writes it:", shlex.join(words))

    def _start(self) -> TrainingRecord | None:
        """What the full-precision start reached, where its checkpoint tells."""
        path = self.config.init or self.run.start_of("student")
        try:
            return load_checkpoint(path).training
        except UserError:  # weights of another origin, or a run without a start of its own
            return None

    def _data(self, trained: Trained | None, metadata: Metadata | None) -> ImageDataset | None:
        self.tell("opening the images")
        found = data_of_run(self.config, self.given, trained, metadata)
        if isinstance(found, Gap):
            self.gaps["data"] = found
            return None
        return found

    def _images_again(self, data: ImageDataset | None) -> tuple[str, ...]:
        """The options that name the images of the proof once more."""
        if data is None:
            return ()
        usual = {item.name: item.default for item in declarations(DataSource) if item.name != "dataset"}
        chosen = {name: value for name, value in vars(self.config).items() if value not in (usual.get(name, ...), {})}
        limited = ("--limit", str(self.limit)) if self.limit < len(data.test) else ()
        return (*data_options(chosen), *limited)

    def _verified(self, file: OnnxFile, data: ImageDataset | None) -> VerificationReport:
        self.tell("verifying the file")
        checkpoint = self.run.student if self.run.student.exists() else None
        model = None if checkpoint is None else self.model
        limit = None if data is None else min(self.limit, len(data.test))
        return verify_deployed(file, checkpoint=checkpoint, model=model, data=data, limit=limit)

    def _codes(self, trained: Trained, data: ImageDataset | None) -> Any:
        self.tell("counting codes")
        return codes_of(trained, data)

    def _inspected(self, file: OnnxFile | None, trained: Trained | None) -> Inspection | None:
        self.tell("listing layers")
        if file is None:
            return None if trained is None else inspect_checkpoint(self.run.student, model=self.model)
        try:
            return inspect_onnx(file)
        except UserError as error:  # verify has said that the file was changed
            self.gaps["layers"] = Gap(f"The layers of the file cannot be listed: {error}.")
            return None

    def _times(self, file: OnnxFile | None, verification: VerificationReport | None) -> tuple[KernelTime, ...]:
        if file is None or verification is None:
            return ()
        if not verification.passed:
            self.gaps["times"] = Gap("A file that differs is not timed.")
            return ()
        self.tell("timing kernels")
        return kernel_times(file)


def _require_own(file: OnnxFile, metadata: Metadata, trained: Trained) -> None:
    """Refuse the file of another run.

    Raises:
        UserError: it was exported from another checkpoint.
    """
    digests = trained.checkpoint.digests
    if digests is not None and metadata.checkpoint_sha256 not in (None, digests.sha256):
        source = trained.checkpoint.source
        raise UserError(
            f"{file.path} was exported from another checkpoint than {source}; give the file of this run, or export "
            f"{source} again"
        )
