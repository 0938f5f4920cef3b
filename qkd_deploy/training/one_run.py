"""One training run, as one of its processes sees it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qkd_deploy.calibration.batch_norms import reestimate_batch_norms
from qkd_deploy.checkpoints.checkpoint import Checkpoint, prepare_student, save_checkpoint
from qkd_deploy.checkpoints.records import (
    ModelRecord,
    QuantizationRecord,
    TrainingRecord,
    dataset_record,
    quantization_record,
)
from qkd_deploy.checkpoints.weights import load_into, read_weights
from qkd_deploy.data import normalize
from qkd_deploy.distill.phases import Phase, Role
from qkd_deploy.training.chosen_bits import BitsUnderBudget
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.distribution import Processes
from qkd_deploy.training.loop.loop import PhaseLoop
from qkd_deploy.training.loop.schedule import Schedule
from qkd_deploy.training.loop.stage import LoopOptions, Stage
from qkd_deploy.training.loop.sync_batch_norm import synchronise
from qkd_deploy.training.methods.delta_refresh import DeltaRefresh
from qkd_deploy.training.methods.method_stage import MethodNetworks, method_networks, method_optimizers
from qkd_deploy.training.methods.pretrain import pretrain_stage
from qkd_deploy.training.monitoring.metrics import EpochRecord
from qkd_deploy.training.monitoring.progress import RunProgress
from qkd_deploy.training.monitoring.quantizer_monitor import QuantizerMonitor
from qkd_deploy.training.monitoring.recorder import RunRecorder
from qkd_deploy.training.networks import start_network
from qkd_deploy.training.run_data import load_run_data
from qkd_deploy.training.run_folder import RunFolder
from qkd_deploy.training.seeds import seed_for
from qkd_deploy.training.train_result import TrainResult

if TYPE_CHECKING:
    from qkd_deploy.graph.prepared import PreparedModel

_INITIALIZATION_IMAGES = 512
_OBSERVED_IMAGES = 128


class Run:
    """Data, full-precision starting points, the method's phases, files.

    Args:
        config: of the run.
        folder: of the run.
        progress: receives what happens.
        processes: that train together.

    Raises:
        UserError: data, networks or weights cannot be used; nothing is left behind then.
    """

    def __init__(self, config: TrainConfig, folder: RunFolder, progress: RunProgress, processes: Processes) -> None:
        self._config = config
        self._folder = folder
        self._progress = progress
        self._processes = processes
        self._data = load_run_data(config, processes.device)
        self._dataset_record = dataset_record(self._data.dataset)
        self._quantization = quantization_record(config, self._data.dataset)
        self._image_shape = list(self._data.train.image_shape)
        roles: tuple[Role, ...] = ("teacher", "student") if config.uses_teacher else ("student",)
        # Built, loaded and prepared before the folder exists: a mistake costs no training and leaves nothing behind.
        self._networks = {role: self._network(role) for role in roles}
        prepared = self._prepare().to(processes.device)
        self._account, self._differences = prepared.account, prepared.differences()
        teacher = copy.deepcopy(self._networks.get("teacher"))
        method_networks(config, prepared, teacher, self._some_images, processes)
        if config.auto_bits:
            BitsUnderBudget(self._data.dataset, self._some_images, config).require_possible(self._networks["student"])

    def execute(self, resume: bool) -> TrainResult:
        """Train, or with ``resume`` go on; the files are written when it returns."""
        with self._folder.opened(self._config, resume=resume) if self._processes.writes else nullcontext():
            found = self._folder.load_state() if self._processes.writes else (None, 0)
            self._saved, lines = self._processes.agree(found)
            self._recorder = RunRecorder(
                self._folder.path, lines, warn=self._progress.message, active=self._processes.writes
            )
            try:
                return self._execute()
            finally:
                self._recorder.close()

    def _execute(self) -> TrainResult:
        self._announce()
        for role in self._networks:
            self._pretrain(role)
        if self._config.auto_bits:
            self._choose_bits()
        prepared = self._initialized()
        networks = method_networks(
            self._config, prepared, self._networks.get("teacher"), self._some_images, self._processes
        )
        self._train_method(networks)
        return self._finish(networks.student)

    def _announce(self) -> None:
        config, data = self._config, self._data
        where = f"{self._processes.world} x " if self._processes.world > 1 else ""
        self._progress.message(
            f"{self._dataset_record.known_as}: {len(data.train)} training and {len(data.test)} held-out images; "
            f"{config.method} {config.bits} on {where}{self._processes.device.type}, seed {config.seed}"
        )
        for note in data.notes:
            self._progress.message(note)
        self._noted = data.notes
        for difference in self._differences:
            self._progress.message(f"quantizer {config.quantizer}: {difference}")
        for entry in self._account.floats:
            self._progress.message(f"stays in float: {entry.name} ({entry.operation}): {entry.reason}")

    # -- networks ----------------------------------------------------------------------------------------------------

    def _given(self, role: Role) -> tuple[str, dict[str, Any], str | None]:
        """Name, arguments and file with weights of a network."""
        config = self._config
        if role == "teacher":
            return config.teacher, config.teacher_args, config.teacher_checkpoint
        start = config.init or (config.teacher_checkpoint if config.how.teacher_is_student else None)
        return config.model, config.model_args, start

    def _network(self, role: Role) -> nn.Module:
        name, args, weights = self._given(role)
        seed_for(self._config, role, "network")
        skip = self._config.init_skip if role == "student" else None
        network = start_network(name, weights, self._data.dataset, args=args, skip=skip, report=self._progress.message)
        learns_in_float = role == "teacher" or weights is None or bool(skip)
        if self._config.sync_batch_norm and learns_in_float:
            synchronise(network, self._processes)
        return network

    def _pretrain(self, role: Role) -> None:
        config, network = self._config, self._networks[role]
        name, _, weights = self._given(role)
        incomplete = role == "student" and bool(config.init_skip)
        if weights is not None and not incomplete:
            return
        if role == "student" and config.how.teacher_is_student and weights is None:
            network.load_state_dict(self._networks["teacher"].state_dict())
            return
        path = self._folder.start_of(role)
        earlier = self._processes.agree(read_weights(path) if self._processes.writes and path.exists() else None)
        if earlier is not None:
            load_into(network, earlier, name, path)
            return
        epochs = config.pretrain_epochs if role == "student" else config.teacher_pretrain_epochs
        stage = pretrain_stage(
            role, network, epochs, config, lambda _: self._data.score(network, config.evaluate_limit, self._processes)
        )
        self._train(role, stage, seed_for(config, role, "pretrain"))
        accuracy = self._data.score(network, 0, self._processes)
        self._save(path, role, network, TrainingRecord("pretrain", epochs, config.seed, accuracy, len(self._data.test)))

    def _choose_bits(self) -> None:
        found: dict[str, str] = {}
        if self._processes.writes:
            bits = BitsUnderBudget(self._data.dataset, self._some_images, self._config)
            found = bits.chosen(self._folder.bits, self._networks["student"], self._progress.message)
        overrides = {**self._config.bits_for, **self._processes.agree(found)}
        self._quantization = replace(self._quantization, overrides=overrides)

    def _prepare(self) -> PreparedModel:
        network = copy.deepcopy(self._networks["student"]).cpu()
        return prepare_student(network, self._image_shape, self._quantization)

    @cached_property
    def _some_images(self) -> Tensor:
        """Normalised training images, the same ones in every process."""
        generator = torch.Generator().manual_seed(seed_for(self._config, "student", "method"))
        order = torch.randperm(len(self._data.train), generator=generator)
        return normalize(self._data.train.images_at(order[:_INITIALIZATION_IMAGES]))

    def _initialized(self) -> PreparedModel:
        from qkd_deploy.calibration.one_batch import initialize
        from qkd_deploy.quantizers.ewgs_refresh import set_deltas

        images = self._some_images
        student = self._prepare().to(self._processes.device)
        initialize(student, images, method=self._config.step_initialization)
        if self._config.quantizer == "ewgs" and self._config.delta != "hessian":
            set_deltas(student, float(self._config.delta))
        return student

    # -- training ----------------------------------------------------------------------------------------------------

    def _train_method(self, networks: MethodNetworks) -> None:
        config = self._config
        judge = self._networks.get("teacher")

        def score(role: Role) -> float:
            network = networks.student if role == "student" else self._networks["teacher"]
            return self._data.score(network, config.evaluate_limit, self._processes, judge)

        stage = Stage(
            name=config.method,
            networks=networks.stage,
            phases=config.training_phases(),
            optimizers=method_optimizers(config),
            evaluate=score,
            schedule=Schedule(config.schedule, config.warmup_epochs / sum(config.epochs)),
            evaluate_every=config.evaluate_every,
            averaged=networks.averaged,
            before_epoch=self._refresh_of(networks),
        )
        self._train("student", stage, seed_for(config, "student", "method"), networks.student)

    def _train(self, role: Role, stage: Stage, seed: int, student: PreparedModel | None = None) -> None:
        config, processes = self._config, self._processes
        options = LoopOptions(
            bf16=config.precision == "bf16",
            compiled=config.compile,
            channels_last=config.channels_last,
            accumulate=config.accumulate,
        )
        batches = self._data.stream(config.batch_size, seed, processes.shard)
        loop = PhaseLoop(stage, batches, processes, options, progress=self._progress, seed=seed)
        if self._saved is not None and self._saved["stage"] == stage.name:
            loop.load_state_dict(self._saved)
        observer = QuantizerMonitor(student) if student is not None and processes.writes else None

        def after_epoch(record: EpochRecord) -> None:
            seen = observer.observe(self._some_images[:_OBSERVED_IMAGES]) if observer is not None else None
            self._recorder.epoch(record, seen)
            if processes.writes:
                self._folder.save_state(loop.state_dict(), self._recorder.lines)

        loop.run(after_epoch)

    def _refresh_of(self, networks: MethodNetworks) -> Callable[[Phase, int], None] | None:
        """What estimates EWGS's delta anew before an epoch; None where it is fixed."""
        config = self._config
        if config.quantizer != "ewgs" or config.delta != "hessian":
            return None
        return DeltaRefresh(networks.stage, self._data, config)

    def _finish(self, student: PreparedModel) -> TrainResult:
        config, data, folder = self._config, self._data, self._folder
        if config.bn_batches:
            stream = data.stream(config.batch_size, seed_for(config, "student", "method"), (0, 1))
            reestimate_batch_norms(student, islice(stream.epoch(), config.bn_batches))
        for note in set(data.notes) - set(self._noted):  # such as files of a stream that could not be read
            self._progress.message(note)
        student.eval()
        judge = self._networks.get("teacher")
        accuracy = data.score(student, 0, self._processes, judge)
        epochs = sum(phase.epochs for phase in config.training_phases() if "student" in phase.losses)
        record = TrainingRecord(config.method, epochs, config.seed, accuracy, len(data.test))
        self._save(folder.student, "student", student.cpu(), record, self._quantization)
        teacher_accuracy = None
        if judge is not None:
            teacher_accuracy = data.score(judge, 0, self._processes) if data.measurable else None
            self._save(folder.teacher, "teacher", judge.cpu(), replace(record, accuracy=teacher_accuracy or 0.0))
        self._processes.wait()
        return TrainResult(
            folder.path, folder.student, student, accuracy, len(data.test), teacher_accuracy, data.measure
        )

    def _save(
        self,
        path: Path,
        role: Role,
        network: nn.Module,
        training: TrainingRecord,
        quantization: QuantizationRecord | None = None,
    ) -> None:
        if not self._processes.writes:
            return
        name, args, _ = self._given(role)
        data = self._data.dataset
        checkpoint = Checkpoint(
            state_dict=dict(network.state_dict()),
            model=ModelRecord(name, len(data.classes), data.in_channels, self._image_shape, args),
            dataset=self._dataset_record,
            training=training,
            quantization=quantization,
        )
        save_checkpoint(path, checkpoint)
