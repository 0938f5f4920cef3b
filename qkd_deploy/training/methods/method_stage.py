"""The stage in which a method trains the student."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from qkd_deploy.distill.phases import Role
from qkd_deploy.errors import UserError
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.tasks.task import Task
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.training.distribution import Processes
from qkd_deploy.training.loop.optimizers import OptimizerSettings
from qkd_deploy.training.loop.schedule import Schedule
from qkd_deploy.training.loop.stage import Stage
from qkd_deploy.training.loop.sync_batch_norm import synchronise
from qkd_deploy.training.methods.delta_refresh import DeltaRefresh
from qkd_deploy.training.methods.features import FeatureStudent, QuantizedFeatureTeacher
from qkd_deploy.training.run_data import RunData


@dataclass(frozen=True)
class MethodNetworks:
    """The networks of a method's stage.

    Attributes:
        stage: by role, as the loop calls them: those of methods that compare features also return them.
        averaged: the moving average of the student, or None.
        student: the prepared network that is evaluated and saved: that of the average, if there is one.
        teacher: the network that is evaluated and saved, or None.
    """

    stage: dict[Role, nn.Module]
    averaged: AveragedModel | None
    student: PreparedModel
    teacher: nn.Module | None


def method_networks(
    config: TrainConfig,
    prepared: PreparedModel,
    teacher: nn.Module | None,
    images: Tensor,
    task: Task,
    processes: Processes,
) -> MethodNetworks:
    """Dress the networks as the method needs them.

    Args:
        config: of the run.
        prepared: the initialised student, on its device.
        teacher: the teacher, or None.
        images: a normalised batch on the device.
        task: says where a feature is, and how it is compared.
        processes: that train together.

    Raises:
        UserError: a feature point that a network lacks, a feature of a quantized teacher, or batch norms that cannot be
            synchronised.
    """
    if config.sync_batch_norm:
        synchronise(prepared.network, processes)
    student: nn.Module = prepared
    taught_by = teacher
    if config.how.quantized_feature:
        assert teacher is not None
        if isinstance(teacher, PreparedModel):
            raise UserError(
                f"{config.method} quantizes a feature of a teacher in full precision, and {config.teacher_checkpoint} "
                "is quantized already; give the teacher's full-precision weights, or use --method kd"
            )
        point, pools = config.feature_point or task.feature_point, task.pools_features
        teacher_point = config.teacher_feature_point or point
        seen = images[:64]
        quantized = QuantizedFeatureTeacher(teacher, teacher_point, config.teacher_feature_bits, seen, pools=pools)
        student = FeatureStudent(prepared, point, quantized.shape, seen, pools=pools)
        taught_by = quantized
    averaged = None
    if config.ema:
        averaged = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(config.ema))  # type: ignore[no-untyped-call]
    deployed = student if averaged is None else averaged.module
    networks: dict[Role, nn.Module] = {"student": student}
    if taught_by is not None:
        networks["teacher"] = taught_by
    inner = deployed.prepared if isinstance(deployed, FeatureStudent) else deployed
    assert isinstance(inner, PreparedModel)
    return MethodNetworks(networks, averaged, inner, teacher)


def method_stage(networks: MethodNetworks, data: RunData, config: TrainConfig, processes: Processes) -> Stage:
    """Plan the stage in which the method's phases train the student, and the teacher where it learns, too."""

    def score(role: Role) -> float:
        network = networks.student if role == "student" else networks.teacher
        assert network is not None
        return data.score(network, config.evaluate_limit, processes, networks.teacher)

    estimates_delta = config.quantizer == "ewgs" and config.delta == "hessian"
    return Stage(
        name=config.method,
        networks=networks.stage,
        phases=config.training_phases(),
        optimizers=_optimizers(config),
        evaluate=score,
        schedule=Schedule(config.schedule, config.warmup_epochs / sum(config.epochs)),
        evaluate_every=config.evaluate_every,
        averaged=networks.averaged,
        measure=data.measure,
        task=data.dataset.task,
        before_epoch=DeltaRefresh(networks.stage, data, config) if estimates_delta else None,
    )


def _optimizers(config: TrainConfig) -> dict[Role, OptimizerSettings]:
    """Set up the optimizer of every network that learns in some phase."""
    settings = OptimizerSettings(
        learning_rate=config.lr,
        optimizer=config.optimizer,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        weight_step_ratio=config.weight_step_ratio,
        activation_step_ratio=config.activation_step_ratio,
        clip_norm=config.clip_norm,
    )
    return {role: settings for phase in config.training_phases() for role in phase.losses}
