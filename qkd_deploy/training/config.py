"""Everything that decides a training run, as one validated value and as ``config.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any

from qkd_deploy.atomic import atomic_write
from qkd_deploy.bits import BitWidths
from qkd_deploy.distill import Method, MethodOptions, Phase, method_named
from qkd_deploy.errors import UserError, closest
from qkd_deploy.mixed_precision.budget import Budget
from qkd_deploy.training.config_fields import checked, choice, number
from qkd_deploy.training.recipes import recipe_for


@dataclass(frozen=True)
class TrainConfig:
    """A run, fully resolved. ``make_config`` fills in what suits the data set; the defaults here are the general ones.

    Attributes:
        dataset: name of a data set (see ``load_dataset``), or ``package.module:factory``.
        data_dir: where its files lie; None for embedded data.
        dataset_args: keyword arguments of the user's data set factory.
        image_size: height and width that images of a folder are brought to; 0 keeps the data's own.
        classes: number of classes where unlabelled data do not tell.
        augmentation: what training does to images: "auto" (what suits the data set), "none", "crop" (shift and
            flip), "imagenet" (resized crop, flip, colour jitter) or "randaugment".
        mixup, cutmix: parameters of the Beta distribution that mixes pairs of images; 0 does not.
        workers: processes that decode images of sets too big for memory.
        strict: a corrupt image stops the run instead of being skipped.
        model: the student; a model's name, or ``package.module:factory``.
        model_args: keyword arguments of its factory.
        teacher: the teacher; unused by methods without one.
        teacher_args: keyword arguments of its factory.
        teacher_checkpoint: full-precision weights of the teacher; None pre-trains it.
        init: full-precision weights the student starts from; None pre-trains them (sqakd: takes the teacher's).
        init_skip: modules or entries of ``init`` that stay at random, such as a head of other classes; the rest is
            then trained in full precision before it is quantized.
        bits: such as ``"w4a4"``.
        bits_for: bits of modules whose path matches a pattern, such as ``{"layer3.*": "w8a8"}``.
        auto_bits: a budget such as ``"size<=2MB"``, under which bits are chosen for every layer that neither
            ``bits_for`` nor ``first_last_bits`` decides; empty leaves them at ``bits``.
        auto_bits_from: the bits to choose from.
        placement, residual, first_last_bits, weight_range: as for ``prepare``.
        quantizer: "interval", "lsq", "pact", "dorefa", "ewgs" or "qil"; "auto" becomes the method's own: ewgs for
            sqakd, interval for all others.
        step_initialization: how steps start, as for ``initialize``; "auto" is what suits the quantizer.
        delta: EWGS's factor on the discretisation error in the gradient: a number (0 is the plain straight-through
            estimator), or "hessian", which estimates it per layer from the trace of the Hessian.
        delta_every: epochs between two such estimates.
        method: a key of ``METHODS``.
        phases: the method's phases to run; empty means all. For ablations.
        epochs: one number per phase, or one total that is divided in the method's ratio (QKD: 30 : 100 : 70).
        pretrain_epochs, teacher_pretrain_epochs: length of full-precision training where no weights are given.
        pretrain_optimizer, pretrain_lr, pretrain_weight_decay: of that training; the rate warms up, then falls as a
            cosine. Transformers want "adamw" and about 0.001.
        batch_size: images per optimizer step, over all processes, in all stages.
        accumulate: parts that a batch is processed in, one after the other, to save memory.
        optimizer: of the weights: "sgd", "adamw", or "adam" (with L2 decay).
        lr: of the student's weights (QKD on CIFAR: 0.01).
        schedule: of the learning rate over all phases: "cosine" to 0, "step" (a tenth after 50 % and again after 75 %)
            or "constant".
        warmup_epochs: epochs in which the learning rate rises from 0.
        momentum: of SGD.
        weight_decay: on weights; never on biases, normalisation and steps.
        clip_norm: largest norm of the gradient of a network's weights; 0 does not clip.
        label_smoothing: share of the label's probability that is spread over all classes.
        ema: decay per step of an exponential moving average of the student, which then is what is evaluated and
            saved; 0 keeps none.
        bn_batches: batches from which batch norms are estimated anew at the end; 0 keeps the running estimates.
        teacher_lr_ratio: teacher's over student's learning rate where both learn.
        weight_step_ratio, activation_step_ratio: relative movement of the steps per iteration, over ``lr``. QKD's
            learning rates for its intervals are 1/100 and 1 times that of the weights.
        temperature: of the distillation loss; 0 becomes the method's own (sqakd: 4, all others: 2).
        soft_loss: weight of the distillation term, for gslr (its start) and sqakd; -1 becomes the method's own
            (0.5 and 1).
        soft_loss_decay: how gslr's weight decreases: "linear", "cosine" or "step".
        feature_weight: lambda of qfd.
        teacher_feature_bits: bits of the teacher's feature in qfd.
        teacher_feature_epochs: epochs in which qfd's teacher learns with that feature; the student's come on top.
        feature_point: module whose output is qfd's feature; empty takes the input of the last layer.
        teacher_feature_point: the same for the teacher; empty takes ``feature_point``.
        seed: decides initial weights, order of images and augmentation.
        device: ``"auto"`` takes an accelerator when there is one.
        threads: of the CPU, while the run lasts; 0 leaves torch's choice. Results are bit-identical for equal numbers.
        precision: ``"bf16"`` trains under autocast; quantizers stay in float32.
        channels_last: keep images and weights in the memory format that convolutions are fastest in.
        compile: run the networks through ``torch.compile``, which costs a minute of compilation for each mode that a
            network runs in; needs a C++ compiler.
        sync_batch_norm: batch statistics over all processes (GPUs only).
        evaluate_every: epochs between two measurements of held-out accuracy.
        evaluate_limit: images used for those; 0 means all. The final accuracy always uses all.

    Raises:
        UserError: a value of the wrong type or out of range.
    """

    dataset: str = "digits"
    data_dir: str | None = None
    dataset_args: dict[str, Any] = field(default_factory=dict)
    image_size: int = number(0, least=0)
    classes: int = number(0, least=0)
    augmentation: str = choice("auto", "auto", "none", "crop", "imagenet", "randaugment")
    mixup: float = number(0.0, least=0)
    cutmix: float = number(0.0, least=0)
    workers: int = number(2, least=0)
    strict: bool = False
    model: str = "resnet20"
    model_args: dict[str, Any] = field(default_factory=dict)
    teacher: str = "resnet56"
    teacher_args: dict[str, Any] = field(default_factory=dict)
    teacher_checkpoint: str | None = None
    init: str | None = None
    init_skip: tuple[str, ...] = ()
    bits: str = "w4a4"
    bits_for: dict[str, str] = field(default_factory=dict)
    auto_bits: str = ""
    auto_bits_from: tuple[str, ...] = ("w8a8", "w4a4", "w2a4")
    placement: str = choice("integer", "integer", "paper")
    residual: str = choice("wide", "wide", "shared")
    first_last_bits: int = number(8, least=2, most=8)
    weight_range: str = choice("narrow", "narrow", "full")
    quantizer: str = choice("auto", "auto", "interval", "lsq", "pact", "dorefa", "ewgs", "qil")
    step_initialization: str = choice("auto", "auto", "mse", "percentile", "lsq", "minmax")
    delta: str = "hessian"
    delta_every: int = number(10, least=1)
    method: str = "qkd"
    phases: tuple[str, ...] = ()
    epochs: tuple[int, ...] = (30, 100, 70)
    pretrain_epochs: int = number(100, least=1)
    teacher_pretrain_epochs: int = number(100, least=1)
    pretrain_optimizer: str = choice("sgd", "sgd", "adamw", "adam")
    pretrain_lr: float = number(0.1, above=0)
    pretrain_weight_decay: float = number(5e-4, least=0)
    batch_size: int = number(128, least=2)
    accumulate: int = number(1, least=1)
    optimizer: str = choice("sgd", "sgd", "adamw", "adam")
    lr: float = number(0.01, above=0)
    schedule: str = choice("cosine", "cosine", "step", "constant")
    warmup_epochs: float = number(0.0, least=0)
    momentum: float = number(0.9, least=0, most=0.9999)
    weight_decay: float = number(1e-4, least=0)
    clip_norm: float = number(0.0, least=0)
    label_smoothing: float = number(0.0, least=0, most=0.9)
    ema: float = number(0.0, least=0, most=0.99999)
    bn_batches: int = number(0, least=0)
    teacher_lr_ratio: float = number(0.1, above=0)
    weight_step_ratio: float = number(0.01, least=0)
    activation_step_ratio: float = number(1.0, least=0)
    temperature: float = number(0.0, least=0)
    soft_loss: float = number(-1.0, least=-1)
    soft_loss_decay: str = choice("linear", "linear", "cosine", "step")
    feature_weight: float = number(0.5, least=0)
    teacher_feature_bits: int = number(4, least=1, most=8)
    teacher_feature_epochs: int = number(10, least=0)
    feature_point: str = ""
    teacher_feature_point: str = ""
    seed: int = number(0, least=0)
    device: str = "auto"
    threads: int = number(0, least=0)
    precision: str = choice("fp32", "fp32", "bf16")
    channels_last: bool = False
    compile: bool = False
    sync_batch_norm: bool = False
    evaluate_every: int = number(1, least=1)
    evaluate_limit: int = number(0, least=0)

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, checked(item, getattr(self, item.name)))
        for bits in (self.bits, *self.bits_for.values(), *self.auto_bits_from):
            BitWidths.parse(bits)
        if self.auto_bits:
            Budget.parse(self.auto_bits)
        self._resolve()
        self._check_delta()
        self.training_phases()

    def _resolve(self) -> None:
        """Replace what is left to the method by its own values, so that files and reports say what was used."""
        for name, open_value in (("quantizer", "auto"), ("temperature", 0.0), ("soft_loss", -1.0)):
            if getattr(self, name) == open_value:
                object.__setattr__(self, name, getattr(self.how, name))

    def _check_delta(self) -> None:
        try:
            usable = self.delta == "hessian" or 0 <= float(self.delta) < inf
        except ValueError:
            usable = False
        if not usable:
            raise UserError(f"delta is {self.delta!r}; give a number that is not negative, or hessian")

    @property
    def how(self) -> Method:
        """The method."""
        return method_named(self.method)

    def training_phases(self) -> list[Phase]:
        """The phases of the run.

        Raises:
            UserError: the method or a phase is unknown, or the epochs describe no run.
        """
        options = MethodOptions(
            temperature=self.temperature,
            teacher_learning_rate_ratio=self.teacher_lr_ratio,
            label_smoothing=self.label_smoothing,
            soft_loss=self.soft_loss,
            soft_loss_decay=self.soft_loss_decay,
            feature_weight=self.feature_weight,
            teacher_feature_epochs=self.teacher_feature_epochs,
        )
        return self.how.phases(self.epochs, options, self.phases)

    @property
    def uses_teacher(self) -> bool:
        """Whether any phase needs the teacher."""
        return any("teacher" in phase.networks for phase in self.training_phases())


def make_config(given: Mapping[str, Any]) -> TrainConfig:
    """The configuration with ``given`` values, and otherwise the defaults for its data set.

    Raises:
        UserError: an unknown key (with a suggestion), or a value of the wrong type or out of range.
    """
    known = [item.name for item in fields(TrainConfig)]
    for key in given:
        if key not in known:
            raise UserError(f"unknown setting {key!r}{_suggestion(key, known)}")
    settings = {**recipe_for(str(given.get("dataset", "digits"))), **given}
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
    return "; " + closest(word, known, otherwise="remove it")
