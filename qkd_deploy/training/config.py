"""Everything that decides a training run, as one validated value and as ``config.toml``."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any

from qkd_deploy.atomic import atomic_write
from qkd_deploy.bits import BitWidths
from qkd_deploy.distill import MethodOptions, Phase, method_named
from qkd_deploy.errors import UserError
from qkd_deploy.training.recipes import recipe_for


def _number(default: float | int, *, above: float = -inf, least: float = -inf, most: float = inf) -> Any:
    """A numeric field with its bounds."""
    return field(default=default, metadata={"above": above, "least": least, "most": most})


def _choice(default: str, *choices: str) -> Any:
    """A text field with a fixed set of values."""
    return field(default=default, metadata={"choices": choices})


@dataclass(frozen=True)
class TrainConfig:
    """A run, fully resolved. ``make_config`` fills in what suits the data set; the defaults here are the general ones.

    Attributes:
        dataset: name of a data set, or ``package.module:factory``.
        data_dir: where its files lie; None for embedded data.
        model: the student; a model's name, or ``package.module:factory``.
        teacher: the teacher; unused by methods without one.
        teacher_checkpoint: full-precision weights of the teacher; None pre-trains it.
        init: full-precision weights the student starts from; None pre-trains them.
        bits: such as ``"w4a4"``.
        bits_for: bits of modules whose path matches a pattern, such as ``{"layer3.*": "w8a8"}``.
        placement, residual, first_last_bits, weight_range: as for ``prepare``.
        step_initialization: how steps start, as for ``initialize``.
        method: a key of ``METHODS``.
        epochs: one number per phase, or one total that is divided in the method's ratio (QKD: 30 : 100 : 70).
        pretrain_epochs, teacher_pretrain_epochs: length of full-precision training where no weights are given.
        pretrain_lr, pretrain_weight_decay: top learning rate (warm-up, then cosine) and decay of that training.
        batch_size: images per batch, in all stages.
        lr: of the student's weights (QKD on CIFAR: 0.01), under one cosine over all phases.
        momentum: of SGD.
        weight_decay: on weights; never on biases, normalisation and steps.
        teacher_lr_ratio: teacher's over student's learning rate where both learn.
        weight_step_ratio, activation_step_ratio: relative movement of the steps per iteration, over ``lr``. QKD's
            learning rates for its intervals are 1/100 and 1 times that of the weights.
        temperature: of the distillation loss.
        seed: decides initial weights, order of images and augmentation.
        device: ``"auto"`` takes an accelerator when there is one.
        threads: of the CPU, while the run lasts; 0 leaves torch's choice. Results are bit-identical for equal numbers.
        precision: ``"bf16"`` trains under autocast; quantizers stay in float32.
        compile: run the networks through ``torch.compile``: about half the time per batch on CPUs, for a minute of
            compilation per phase; needs a C++ compiler.
        evaluate_every: epochs between two measurements of held-out accuracy.
        evaluate_limit: images used for those; 0 means all. The final accuracy always uses all.

    Raises:
        UserError: a value of the wrong type or out of range.
    """

    dataset: str = "digits"
    data_dir: str | None = None
    model: str = "resnet20"
    teacher: str = "resnet56"
    teacher_checkpoint: str | None = None
    init: str | None = None
    bits: str = "w4a4"
    bits_for: dict[str, str] = field(default_factory=dict)
    placement: str = _choice("integer", "integer", "paper")
    residual: str = _choice("wide", "wide", "shared")
    first_last_bits: int = _number(8, least=2, most=8)
    weight_range: str = _choice("narrow", "narrow", "full")
    step_initialization: str = _choice("mse", "mse", "lsq", "minmax")
    method: str = "qkd"
    epochs: tuple[int, ...] = (30, 100, 70)
    pretrain_epochs: int = _number(100, least=1)
    teacher_pretrain_epochs: int = _number(100, least=1)
    pretrain_lr: float = _number(0.1, above=0)
    pretrain_weight_decay: float = _number(5e-4, least=0)
    batch_size: int = _number(128, least=2)
    lr: float = _number(0.01, above=0)
    momentum: float = _number(0.9, least=0, most=0.9999)
    weight_decay: float = _number(1e-4, least=0)
    teacher_lr_ratio: float = _number(0.1, above=0)
    weight_step_ratio: float = _number(0.01, least=0)
    activation_step_ratio: float = _number(1.0, least=0)
    temperature: float = _number(2.0, above=0)
    seed: int = _number(0, least=0)
    device: str = "auto"
    threads: int = _number(0, least=0)
    precision: str = _choice("fp32", "fp32", "bf16")
    compile: bool = False
    evaluate_every: int = _number(1, least=1)
    evaluate_limit: int = _number(0, least=0)

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, _checked(item, getattr(self, item.name)))
        for bits in (self.bits, *self.bits_for.values()):
            BitWidths.parse(bits)
        self.phases()

    def phases(self) -> list[Phase]:
        """The phases of the run.

        Raises:
            UserError: the method is unknown, or the epochs describe no run.
        """
        options = MethodOptions(self.temperature, self.teacher_lr_ratio)
        return method_named(self.method).phases(self.epochs, options)

    @property
    def uses_teacher(self) -> bool:
        """Whether any phase needs the teacher."""
        return any("teacher" in phase.networks for phase in self.phases())


def make_config(given: Mapping[str, Any]) -> TrainConfig:
    """The configuration with ``given`` values, and otherwise the defaults for its data set.

    Raises:
        UserError: an unknown key (with a suggestion), or a value of the wrong type or out of range.
    """
    known = [item.name for item in fields(TrainConfig)]
    for key in given:
        if key not in known:
            raise UserError(f"unknown setting {key!r}{_suggestion(key, known)}")
    recipe = recipe_for(str(given.get("dataset", "digits")))
    return TrainConfig(**{**recipe, **given})


def read_config(path: Path | str) -> dict[str, Any]:
    """The settings in a TOML file, to be completed by ``make_config``; other sources may be laid over them.

    Raises:
        UserError: the file is missing, cannot be read, is no TOML or has an unknown key.
    """
    try:
        settings = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}; check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a TOML file ({error}); correct it") from error
    known = [item.name for item in fields(TrainConfig)]
    for key in settings:
        if key not in known:
            raise UserError(f"{path}: unknown setting {key!r}{_suggestion(key, known)}")
    return settings


def write_config(config: TrainConfig, path: Path | str) -> None:
    """Write every setting to a TOML file, from which ``make_config(read_config(path))`` gives an equal value."""
    import tomli_w

    settings = {key: value for key, value in asdict(config).items() if value is not None}
    with atomic_write(path) as temporary:
        temporary.write_text(tomli_w.dumps(settings), encoding="utf-8")


def _suggestion(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else "; remove it"


def _checked(item: Field[Any], value: Any) -> Any:
    """``value`` in the type of its field (an int may stand for a float, a list for a tuple)."""
    kind = str(item.type)
    if value is None and "None" in kind:
        return None
    if kind == "float" and type(value) is int:
        value = float(value)
    if kind.startswith("tuple"):
        return _epochs(value)
    if kind.startswith("dict"):
        return _bits_table(item.name, value)
    expected = {"str": str, "int": int, "float": float, "bool": bool}[kind.removesuffix(" | None")]
    if type(value) is not expected:
        raise UserError(f"{item.name} is {value!r}; it must be {_in_words(expected)}")
    _check_range(item, value)
    return value


def _check_range(item: Field[Any], value: Any) -> None:
    choices = item.metadata.get("choices")
    if choices is not None and value not in choices:
        hint = difflib.get_close_matches(value, choices, n=1)
        suggestion = f"did you mean {hint[0]!r}? " if hint else ""
        raise UserError(f"{item.name} is {value!r}; {suggestion}choose one of {', '.join(choices)}")
    if "least" in item.metadata:
        above, least, most = (item.metadata[key] for key in ("above", "least", "most"))
        if not (above < value < inf and least <= value <= most):
            bounds = ((f"above {above:g}", above), (f"at least {least:g}", least), (f"at most {most:g}", most))
            wanted = " and ".join(text for text, bound in bounds if abs(bound) != inf)
            raise UserError(f"{item.name} is {value}; it must be a number {wanted}")


def _epochs(value: Any) -> tuple[int, ...]:
    numbers = (value,) if type(value) is int else value
    if not isinstance(numbers, (list, tuple)) or any(type(number) is not int for number in numbers):
        raise UserError(f"epochs is {value!r}; give one number, or one per phase such as 30,100,70")
    return tuple(numbers)


def _bits_table(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or any(type(text) is not str for pair in value.items() for text in pair):
        raise UserError(f'{name} is {value!r}; it must map patterns to bits, such as {{ "layer3.*" = "w8a8" }}')
    return dict(value)


def _in_words(kind: type) -> str:
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[kind]
