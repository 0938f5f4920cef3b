"""A whole training run: data, full-precision starting points, the method's phases, files."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from qkd_deploy.data import load_dataset, normalize
from qkd_deploy.distill.phases import Role
from qkd_deploy.training.batches import BatchStream
from qkd_deploy.training.checkpoint import Checkpoint, prepare_student, save_checkpoint
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.evaluate import evaluate, integer_accuracy
from qkd_deploy.training.loop import PhaseLoop, Stage
from qkd_deploy.training.metrics import EpochRecord, MetricsFile
from qkd_deploy.training.networks import resolve_device, start_network
from qkd_deploy.training.optimizers import OptimizerSettings
from qkd_deploy.training.pretrain import pretrain_stage
from qkd_deploy.training.progress import RunProgress, progress_on_stderr
from qkd_deploy.training.records import (
    ModelRecord,
    QuantizationRecord,
    TrainingRecord,
    dataset_record,
    quantization_record,
)
from qkd_deploy.training.run_folder import RunFolder
from qkd_deploy.training.weights import load_into, read_weights

if TYPE_CHECKING:
    from qkd_deploy.graph.prepare import PreparedModel

_INITIALIZATION_IMAGES = 512
_SEEDS_PER_RUN = 8


@dataclass(frozen=True)
class TrainResult:
    """What a run achieved.

    Attributes:
        folder: the files of the run.
        checkpoint: the student, for ``export``.
        student: the trained network, on the CPU, in evaluation mode.
        accuracy: percent of ``images`` held-out images that the *frozen integer* student classifies correctly.
        images: number of held-out images.
        teacher_accuracy: percent, of the full-precision teacher after the run; None without a teacher.
    """

    folder: Path
    checkpoint: Path
    student: PreparedModel
    accuracy: float
    images: int
    teacher_accuracy: float | None


def train(
    config: TrainConfig, out: Path | str, *, resume: bool = False, progress: RunProgress | None = None
) -> TrainResult:
    """Run ``config`` and leave its files in the folder ``out``.

    On CPU, equal configurations give bit-identical weights, and so does a run that was killed and resumed.

    Args:
        config: from ``make_config``.
        out: a folder without a run; with ``resume``, the folder of the run to continue from its last epoch.
        resume: continue; ``config`` must equal that of the run (``config_of_run``).
        progress: receives what happens; by default it is shown on stderr.

    Raises:
        UserError: anything the user can correct: unusable data, networks, weights or folder, or diverging training.
    """
    folder = RunFolder(Path(out))
    folder.check(config, resume=resume)
    shown = progress if progress is not None else progress_on_stderr()
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or threads)
    try:
        return _Run(config, folder, shown).execute(resume)
    finally:
        torch.set_num_threads(threads)
        shown.close()


class _Run:
    """One run in one process."""

    def __init__(self, config: TrainConfig, folder: RunFolder, progress: RunProgress) -> None:
        self._config = config
        self._folder = folder
        self._progress = progress
        self._device = resolve_device(config.device)
        data_dir = None if config.data_dir is None else Path(config.data_dir)
        loaded = load_dataset(config.dataset, data_dir)
        self._dataset_record = dataset_record(loaded)
        self._quantization = quantization_record(config, loaded)
        self._dataset = loaded.to(self._device)
        self._image_shape = list(loaded.train.images.shape[1:])
        roles: tuple[Role, ...] = ("teacher", "student") if config.uses_teacher else ("student",)
        # Built, loaded and prepared before the folder exists: a mistake costs no training and leaves nothing behind.
        self._networks = {role: self._network(role) for role in roles}
        self._account = self._prepare().account

    def execute(self, resume: bool) -> TrainResult:
        with self._folder.opened(self._config, resume=resume):
            self._saved, lines = self._folder.load_state()
            self._metrics = MetricsFile(self._folder.metrics, keep=lines)
            try:
                return self._execute()
            finally:
                self._metrics.close()

    def _execute(self) -> TrainResult:
        train, test = self._dataset.train, self._dataset.test
        self._progress.message(
            f"{self._dataset_record.known_as}: {len(train)} training and {len(test)} held-out images; "
            f"{self._config.method} {self._config.bits} on {self._device}, seed {self._config.seed}"
        )
        for entry in self._account.floats:
            self._progress.message(f"stays in float: {entry.name} ({entry.operation}): {entry.reason}")
        for role in self._networks:
            self._pretrain(role)
        student = self._initialized()
        self._train("student", self._method_stage(student))
        return self._finish(student)

    def _network(self, role: Role) -> nn.Module:
        config = self._config
        name, weights = (
            (config.model, config.init) if role == "student" else (config.teacher, config.teacher_checkpoint)
        )
        self._seed(role, "network")
        return start_network(name, weights, self._dataset)

    def _seed(self, role: Role, purpose: str) -> int:
        """Seed torch for one purpose, so that pre-trained networks do not depend on the method that follows."""
        offset = ("network", "pretrain", "method").index(purpose) * 2 + (role == "teacher")
        seed = self._config.seed * _SEEDS_PER_RUN + offset
        torch.manual_seed(seed)
        return seed

    def _pretrain(self, role: Role) -> None:
        config, network = self._config, self._networks[role]
        given = config.init if role == "student" else config.teacher_checkpoint
        if given is not None:
            return
        name = config.model if role == "student" else config.teacher
        path = self._folder.start_of(role)
        if path.exists():
            load_into(network, read_weights(path), name, path)
            return
        epochs = config.pretrain_epochs if role == "student" else config.teacher_pretrain_epochs
        stage = pretrain_stage(role, network, epochs, config, self._dataset.test)
        self._train(role, stage)
        accuracy = evaluate(network, self._dataset.test)
        self._save(
            path, role, network, TrainingRecord("pretrain", epochs, config.seed, accuracy, len(self._dataset.test))
        )

    def _prepare(self) -> PreparedModel:
        network = copy.deepcopy(self._networks["student"]).cpu()
        return prepare_student(network, self._image_shape, self._quantization)

    def _initialized(self) -> PreparedModel:
        from qkd_deploy.graph.prepare import initialize

        student = self._prepare().to(self._device)
        generator = torch.Generator().manual_seed(self._seed("student", "method"))
        order = torch.randperm(len(self._dataset.train), generator=generator)
        images = normalize(self._dataset.train.images[order[:_INITIALIZATION_IMAGES].to(self._device)])
        initialize(student, images, method=self._config.step_initialization)
        return student

    def _method_stage(self, student: PreparedModel) -> Stage:
        config = self._config
        settings = OptimizerSettings(
            learning_rate=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            weight_step_ratio=config.weight_step_ratio,
            activation_step_ratio=config.activation_step_ratio,
        )
        networks: dict[Role, nn.Module] = {**self._networks, "student": student}
        learning = {role for phase in config.phases() for role in phase.losses}
        return Stage(
            name=config.method,
            networks=networks,
            phases=config.phases(),
            optimizers={role: settings for role in networks if role in learning},
            evaluate=lambda: integer_accuracy(student, self._dataset.test, limit=config.evaluate_limit or None),
            evaluate_every=config.evaluate_every,
        )

    def _train(self, role: Role, stage: Stage) -> None:
        seed = self._seed(role, "method" if stage.name == self._config.method else "pretrain")
        data = self._dataset
        batches = BatchStream(data.train, self._config.batch_size, data.augmentation, seed)
        loop = PhaseLoop(
            stage,
            batches,
            self._device,
            bf16=self._config.precision == "bf16",
            progress=self._progress,
            compiled=self._config.compile,
        )
        if self._saved is not None and self._saved["stage"] == stage.name:
            loop.load_state_dict(self._saved)

        def after_epoch(record: EpochRecord) -> None:
            self._metrics.write(record)
            self._folder.save_state(loop.state_dict(), self._metrics.lines)

        loop.run(after_epoch)

    def _finish(self, student: PreparedModel) -> TrainResult:
        student.cpu().eval()
        test, config, folder = self._dataset.test.to("cpu"), self._config, self._folder
        epochs = sum(phase.epochs for phase in config.phases())
        accuracy = integer_accuracy(student, test)
        record = TrainingRecord(config.method, epochs, config.seed, accuracy, len(test))
        self._save(folder.student, "student", student, record, self._quantization)
        teacher_accuracy = None
        if "teacher" in self._networks:
            teacher = self._networks["teacher"].cpu()
            teacher_accuracy = evaluate(teacher, test)
            self._save(folder.teacher, "teacher", teacher, replace(record, accuracy=teacher_accuracy))
        return TrainResult(folder.path, folder.student, student, accuracy, len(test), teacher_accuracy)

    def _save(
        self,
        path: Path,
        role: Role,
        network: nn.Module,
        training: TrainingRecord,
        quantization: QuantizationRecord | None = None,
    ) -> None:
        name = self._config.model if role == "student" else self._config.teacher
        data = self._dataset
        checkpoint = Checkpoint(
            state_dict=dict(network.state_dict()),
            model=ModelRecord(name, len(data.classes), data.in_channels, self._image_shape),
            dataset=self._dataset_record,
            training=training,
            quantization=quantization,
        )
        save_checkpoint(path, checkpoint)
