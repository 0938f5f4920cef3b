"""Everything that decides a training run, as one validated value and as ``config.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkd_deploy.atomic import atomic_write
from qkd_deploy.distill.methods import MethodOptions, method_named
from qkd_deploy.distill.phases import Phase, SoftLoss, Temperature
from qkd_deploy.errors import UserError
from qkd_deploy.graph.placement.settings import NetworkBits
from qkd_deploy.mixed_precision.settings import BudgetSettings
from qkd_deploy.quantizers.ewgs_options import EwgsOptions
from qkd_deploy.quantizers.settings import QuantizerSettings
from qkd_deploy.settings import declarations, read_toml, require_known
from qkd_deploy.training.dataset_defaults import defaults_for
from qkd_deploy.training.groups import MethodChoice, Networks, Optimisation, Pretraining, Running, TrainingData


@dataclass(frozen=True, kw_only=True)
class TrainConfig(
    TrainingData,
    Networks,
    NetworkBits,
    BudgetSettings,
    QuantizerSettings,
    EwgsOptions,
    MethodChoice,
    MethodOptions,
    Pretraining,
    Optimisation,
    Running,
):
    """A run, fully resolved: each base declares one group of its settings, which ``docs/commands.md`` lists.

    ``make_config`` fills in what suits the data set; the defaults here are the general ones. What is left to the method
    is replaced by the method's own values, so that files and reports say what was used.

    Raises:
        UserError: a value of the wrong type or out of range.
    """

    temperature: Temperature = 0.0
    soft_loss: SoftLoss = -1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in self.how.left_open(self).items():
            object.__setattr__(self, name, value)
        self.training_phases()

    def training_phases(self) -> list[Phase]:
        """The phases of the run.

        Raises:
            UserError: a phase is unknown, or the epochs describe no run.
        """
        return self.how.phases(self.epochs, self, self.phases)

    @property
    def uses_teacher(self) -> bool:
        """True where any phase needs the teacher."""
        return any("teacher" in phase.networks for phase in self.training_phases())


def make_config(given: Mapping[str, Any]) -> TrainConfig:
    """The configuration with ``given`` values, and otherwise the defaults for its data set.

    Raises:
        UserError: an unknown key (with a suggestion), or a value of the wrong type or out of range.
    """
    require_known(given, TrainConfig)
    settings = {**defaults_for(str(given.get("dataset", "digits"))), **given}
    if method_named(str(settings.get("method", TrainConfig.method))).teacher_is_student:
        _take_student_as_teacher(settings, given)
    return TrainConfig(**settings)


def _take_student_as_teacher(settings: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Let the teacher have the student's architecture, which the method demands."""
    student = settings.get("model", TrainConfig.model)
    if given.get("teacher", student) != student:
        raise UserError(
            f"{settings['method']} distils between equal networks, but the model is {student} and the teacher "
            f"{given['teacher']}; leave --teacher out, or give --teacher {student}:FILE"
        )
    settings["teacher"] = student
    if settings.get("teacher_checkpoint") is None:
        settings["teacher_checkpoint"] = settings.get("init")
    settings["teacher_args"] = settings.get("model_args", {})


def read_config(path: Path | str) -> dict[str, Any]:
    """The settings in a TOML file, to be completed by ``make_config``; other sources may be laid over them.

    Raises:
        UserError: the file is missing, cannot be read, is no TOML or has an unknown key.
    """
    settings = read_toml(Path(path), "configuration")
    require_known(settings, TrainConfig, str(path))
    return settings


def config_text(config: TrainConfig) -> str:
    """Every setting as TOML, from which ``make_config(read_config(path))`` gives an equal value."""
    import tomli_w

    settings = {item.name: getattr(config, item.name) for item in declarations(TrainConfig)}
    return tomli_w.dumps({name: value for name, value in settings.items() if value is not None})


def write_config(config: TrainConfig, path: Path | str) -> None:
    """Write ``config_text`` to a file."""
    with atomic_write(path) as temporary:
        temporary.write_text(config_text(config), encoding="utf-8")
