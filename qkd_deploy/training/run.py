"""A whole training run, from its settings to its files."""

from __future__ import annotations

import copy
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from itertools import islice
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from qkd_deploy.calibration.batch_norms import reestimate_batch_norms
from qkd_deploy.calibration.one_batch import initialize
from qkd_deploy.checkpoints.checkpoint import prepare_student, save_checkpoint
from qkd_deploy.checkpoints.records import TrainingRecord
from qkd_deploy.checkpoints.weights import load_into, read_weights
from qkd_deploy.distill.phases import Role
from qkd_deploy.errors import require_kind
from qkd_deploy.graph.placement.settings import QuantizationSettings
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.graph.replacements import replaced_in_words
from qkd_deploy.quantizers.ewgs_refresh import set_deltas
from qkd_deploy.training.chosen_bits import BitsUnderBudget
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.distribution import Processes, launch
from qkd_deploy.training.methods.method_stage import method_networks, method_stage
from qkd_deploy.training.methods.pretrain import pretrain_epochs, pretrain_stage
from qkd_deploy.training.monitoring.bfloat16 import bfloat16_remark
from qkd_deploy.training.monitoring.progress import NoProgress, RunProgress, progress_on_stderr
from qkd_deploy.training.networks import networks_of_run, source_of
from qkd_deploy.training.records import network_checkpoint
from qkd_deploy.training.run_data import load_run_data
from qkd_deploy.training.run_folder import RunFolder
from qkd_deploy.training.seeds import seed_for
from qkd_deploy.training.stages import StageRunner
from qkd_deploy.training.start.run_state import RunState, identity_of
from qkd_deploy.training.train_result import TrainResult

__all__ = ["TrainResult", "train"]

_INITIALIZATION_IMAGES = 512
_OBSERVED_IMAGES = 128


def train(
    config: TrainConfig,
    out: Path | str,
    *,
    resume: bool = False,
    progress: RunProgress | None = None,
    command: str = "",
) -> TrainResult:
    """Run ``config`` and leave its files in the folder ``out``.

    On CPU, equal configurations give bit-identical weights, and so does a run that was killed and resumed. Started by
    ``torchrun``, all its processes train together; the first one writes.

    Args:
        config: from ``make_config``.
        out: a folder without a run; with ``resume``, the folder of the run to continue from its last epoch.
        resume: continue; ``config`` must equal that of the run (``config_of_run``).
        progress: receives what happens; by default it is shown on stderr.
        command: what the user typed, for ``origin.jsonl``.

    Raises:
        UserError: anything the user can correct: unusable data, networks, weights or folder, or diverging training.
    """
    require_kind(config, TrainConfig, "config", "make one with TrainConfig(...)")
    require_kind(out, (str, PathLike), "out", "give the path of a folder")
    folder = RunFolder(Path(out))
    processes = launch(config.device)
    shown: RunProgress = NoProgress()
    threads = torch.get_num_threads()
    with ExitStack() as held:
        if processes.writes:
            folder.check(config, resume=resume)
            if resume:
                held.enter_context(folder.locked())
            shown = progress if progress is not None else progress_on_stderr()
        held.callback(shown.close)
        held.callback(torch.set_num_threads, threads)
        start = processes.agree(_start(folder, shown) if resume and processes.writes else None)
        _set_threads(config.threads, start, shown)
        result = _Run(config, folder, shown, processes, start).execute(command)
        shown.summary(result.folder, result.teacher_accuracy)
        return result


def _start(folder: RunFolder, progress: RunProgress) -> RunState:
    """Read the state that a run goes on from."""
    state, remark = folder.load_state()
    if remark:
        progress.message(remark)
    return state


def _set_threads(wanted: int, start: RunState | None, progress: RunProgress) -> None:
    """Compute with as many threads as the settings say, or else as the run began with: others give other bits."""
    usual = torch.get_num_threads()
    threads = wanted or (usual if start is None else start.identity.threads)
    torch.set_num_threads(threads)
    if not wanted and threads != usual:
        progress.message(f"going on with {threads} threads, as the run began; here torch would take {usual}")


class _Run:
    """One run as one of its processes sees it: data, full-precision starting points, the method's phases, files.

    Everything is built, loaded and prepared once before the folder exists: a mistake costs no training and leaves
    nothing behind.

    Args:
        config: of the run.
        folder: of the run.
        progress: receives what happens.
        processes: that train together.
        start: the state to go on from, or None for a new run.

    Raises:
        UserError: data, networks or weights cannot be used, or the state is that of another run.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        progress: RunProgress,
        processes: Processes,
        start: RunState | None,
    ) -> None:
        self._config = config
        self._folder = folder
        self._progress = progress
        self._processes = processes
        self._data = load_run_data(config, processes.device)
        device, fingerprint = processes.device.type, self._data.dataset.fingerprint
        identity = identity_of(config, fingerprint, torch.get_num_threads(), device, processes.world)
        if start is not None:
            start.identity.require_same(identity, folder.path)
        self._resumes, self._start = start is not None, start or RunState(identity)
        self._noted: set[str] = set()
        dataset = self._data.dataset
        self._quantization = config.quantization(dataset.normalization, config.quantizer)
        made_for = self._data.expected.networks
        self._networks = networks_of_run(config, self._data.dataset, made_for, processes, progress.message)
        prepared = self._prepare()
        self._account, self._differences = prepared.account, prepared.differences()
        self._images = self._data.some_images(_INITIALIZATION_IMAGES, seed_for(config, "student", "method"))
        method_networks(
            config, prepared, copy.deepcopy(self._networks.get("teacher")), self._images, dataset.task, processes
        )
        self._budget = BitsUnderBudget(self._data.dataset, self._images, config) if config.auto_bits else None
        if self._budget is not None:
            self._budget.require_possible(self._networks["student"])

    def execute(self, command: str) -> TrainResult:
        """Train what is left to train; the files are written when it returns."""
        config, data, processes, folder, start = self._config, self._data, self._processes, self._folder, self._start
        held = folder.opened(config, start, resume=self._resumes, command=command)
        opened = held if processes.writes else nullcontext()
        observed = self._images[:_OBSERVED_IMAGES]
        with opened, closing(StageRunner(config, data, observed, folder, self._progress, processes, start)) as stages:
            self._announce()
            for role in self._networks:
                self._pretrain(role, stages)
            if self._budget is not None:
                self._choose_bits(self._budget, stages)
            student, teacher = self._initialized(), self._networks.get("teacher")
            networks = method_networks(config, student, teacher, self._images, data.dataset.task, processes)
            stage, seed = method_stage(networks, data, config, processes), seed_for(config, "student", "method")
            stages.train(stage, seed, networks.student)
            return self._finish(networks.student)

    def _announce(self) -> None:
        config, data = self._config, self._data
        where = f"{self._processes.world} x " if self._processes.world > 1 else ""
        self._progress.message(
            f"{data.dataset.known_as}: {len(data.train)} training and {len(data.test)} held-out images; "
            f"{config.method} {config.bits} on {where}{self._processes.device.type}, seed {config.seed}"
        )
        self._pass_on_notes()
        fast = bfloat16_remark(config, self._processes.device.type)
        for remark in filter(None, (fast, *data.expected.remarks, *self._account.remarks)):
            self._progress.message(remark)
        for difference in self._differences:
            self._progress.message(f"quantizer {config.quantizer}: {difference}")
        if self._account.replaced:
            self._progress.message(
                f"replaced: {replaced_in_words(self._account.replaced)}; networks in full precision keep their own"
            )
        for entry in self._account.floats:
            self._progress.message(f"stays in float: {entry.name} ({entry.operation}): {entry.reason}")

    def _pass_on_notes(self) -> None:
        """Report what the data have to say and did not say before, such as files that could not be read."""
        for note in self._data.notes:
            if note not in self._noted:
                self._progress.message(note)
        self._noted.update(self._data.notes)

    def _pretrain(self, role: Role, stages: StageRunner) -> None:
        """Complete a network whose weights are not all given: from an earlier process, the teacher, or by training."""
        config, data = self._config, self._data
        network, source = self._networks[role], source_of(self._config, role)
        if not source.incomplete:
            return
        if role == "student" and config.how.teacher_is_student and source.weights is None:
            network.load_state_dict(self._networks["teacher"].state_dict())
            return
        path = self._folder.start_of(role)
        earlier = self._processes.agree(read_weights(path) if self._processes.writes and stages.has(path) else None)
        if earlier is not None:
            load_into(network, earlier, source.name, path)
            return

        def score(_: Role) -> float | None:
            return data.score(network, config.evaluate_limit, self._processes) if data.measurable else None

        stages.train(pretrain_stage(role, network, config, data, score), seed_for(config, role, "pretrain"))
        epochs = pretrain_epochs(role, config)
        record = TrainingRecord("pretrain", epochs, config.seed, 0.0, len(data.test))
        self._save(path, role, network, self._measured(record, network))
        stages.finish(path)

    def _choose_bits(self, budget: BitsUnderBudget, stages: StageRunner) -> None:
        """Let the first process choose the bits of the layers, and all take them over."""
        found: dict[str, str] = {}
        if self._processes.writes:
            if not stages.has(self._folder.bits):
                self._folder.bits.unlink(missing_ok=True)
            found = budget.chosen(self._folder.bits, self._networks["student"], self._progress.message)
            stages.finish(self._folder.bits)
        decided = {**self._config.bits_for, **self._processes.agree(found)}
        self._quantization = replace(self._quantization, overrides=replace(self._config, bits_for=decided).overrides)

    def _prepare(self) -> PreparedModel:
        """A copy of the student with quantizers, on the device."""
        network = copy.deepcopy(self._networks["student"]).cpu()
        student = prepare_student(network, list(self._data.train.image_shape), self._quantization)
        return student.to(self._processes.device)

    def _initialized(self) -> PreparedModel:
        student = self._prepare()
        initialize(student, self._images, method=self._config.step_initialization)
        if self._config.quantizer == "ewgs" and self._config.delta != "hessian":
            set_deltas(student, float(self._config.delta))
        return student

    def _finish(self, student: PreparedModel) -> TrainResult:
        """Measure the trained networks, and write their checkpoints."""
        config, data, folder = self._config, self._data, self._folder
        if config.bn_batches:
            stream = data.stream(config.batch_size, seed_for(config, "student", "method"), (0, 1))
            reestimate_batch_norms(student, islice(stream.epoch(), config.bn_batches))
        self._pass_on_notes()
        student.eval()
        teacher = self._networks.get("teacher")
        figures = data.figures(student, 0, self._processes, teacher)
        accuracy = next(iter(figures.values()))
        epochs = sum(phase.epochs for phase in config.training_phases() if "student" in phase.losses)
        record = TrainingRecord(config.method, epochs, config.seed, accuracy, len(data.test))
        own = replace(record, figures=figures) if data.measurable else record
        self._save(folder.student, "student", student.cpu(), own, self._quantization)
        teacher_accuracy = None
        if teacher is not None:
            quantization = teacher.settings if isinstance(teacher, PreparedModel) else None
            taught = self._measured(replace(record, accuracy=0.0), teacher)
            teacher_accuracy = taught.accuracy if data.measurable else None
            self._save(folder.teacher, "teacher", teacher.cpu(), taught, quantization)
        self._processes.wait()
        return TrainResult(
            folder.path, folder.student, student, accuracy, len(data.test), teacher_accuracy, data.measure, own.figures
        )

    def _measured(self, record: TrainingRecord, network: nn.Module) -> TrainingRecord:
        """Add to a record what a network reaches, where labels tell."""
        if not self._data.measurable:
            return record
        figures = self._data.figures(network, 0, self._processes)
        return replace(record, accuracy=next(iter(figures.values())), figures=figures)

    def _save(
        self,
        path: Path,
        role: Role,
        network: nn.Module,
        training: TrainingRecord,
        quantization: QuantizationSettings | None = None,
    ) -> None:
        if self._processes.writes:
            source = source_of(self._config, role)
            data = self._data.dataset.normalized(self._data.expected.networks[role])
            save_checkpoint(path, network_checkpoint(network, source, data, training, quantization))
