"""Semantic segmentation: one class for each pixel, cross entropy by pixel, and the mean intersection over union."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qkd_deploy.errors import UserError
from qkd_deploy.tasks.task import Score, Task, Terms, plain_answers, uncertainty_of_mean

if TYPE_CHECKING:  # the command line reads the tasks' names without torch
    from torch import Tensor

IGNORED = 255
"""The target of pixels that count nowhere, such as borders and what has no class."""
MOST_CLASSES = IGNORED
AUXILIARY = 0.5
"""The weight of auxiliary classifiers in the loss: that of torchvision's reference training."""
_MAIN = ("out", "logits")
_AT_ONCE = 8
"""Images whose logits are at full size at the same time when they are judged."""


def logits_of(answers: Any) -> tuple[Tensor, list[Tensor]]:
    """Find the logits in what a network returns, and those of its auxiliary classifiers.

    Args:
        answers: logits [N, classes, h, w]; or a dict with "out" (torchvision) or "logits" (Hugging Face), else of which
            the first tensor is meant; or a sequence, such as a file's outputs, of which the first tensor is meant. All
            other tensors with as many classes are those of auxiliary classifiers.

    Raises:
        ValueError: there is no tensor in it.
    """
    plain = plain_answers(answers)
    if isinstance(plain, dict):
        main = next((key for key in _MAIN if key in plain), None)
        tensors = list(plain.values()) if main is None else [plain.pop(main), *plain.values()]
    else:
        tensors = list(plain) if isinstance(plain, tuple) else [plain]
    if not tensors:
        raise ValueError("the network returns no tensor")
    logits, *others = tensors
    alike = [other for other in others if other.dim() == 4 and other.shape[:2] == logits.shape[:2]]
    return logits, alike


def resampled(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Bring logits [N, classes, h, w] to another height and width, bilinearly, as networks at a fraction are judged."""
    from torch.nn import functional

    if list(logits.shape[2:]) == list(size):
        return logits
    return functional.interpolate(logits, size=list(size), mode="bilinear", align_corners=False)


def pixel_cross_entropy(logits: Tensor, masks: Tensor, smoothing: float = 0.0, weights: Sequence[float] = ()) -> Tensor:
    """Compute the weighted mean of the cross entropy of all pixels that are not ignored; 0 where all are.

    Args:
        logits: [N, classes, h, w], brought to the masks' size.
        masks: uint8 [N, H, W], class numbers or ``IGNORED``.
        smoothing: share of the probability that is spread evenly over all classes.
        weights: of the pixels of each class; without any, all count alike.
    """
    from torch.nn import functional

    logits = resampled(logits, masks.shape[1:])
    weight = logits.new_tensor(weights) if weights else None
    total = functional.cross_entropy(
        logits, masks.long(), weight, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )
    # sums on the device: nothing waits for it
    if weight is None:
        return total / (masks != IGNORED).sum().clamp(min=1)
    share = functional.pad(weight, (0, IGNORED + 1 - len(weight)))[masks.long()].sum()
    return total / share.where(share > 0, 1)


def pixel_kl(logits: Tensor, target_logits: Tensor, temperature: float) -> Tensor:
    """Compute ``T^2 * KL(p_target || p)`` with ``p = softmax(logits / T)``, averaged over images and pixels.

    Args:
        logits: [N, classes, h, w], of the network that learns.
        target_logits: [N, classes, h', w'], of the network that is imitated; detached, and brought to h x w.
        temperature: softens both distributions.
    """
    from torch.nn import functional

    target_logits = resampled(target_logits.detach(), logits.shape[2:])
    log_probabilities = functional.log_softmax(logits / temperature, dim=1)
    target = functional.log_softmax(target_logits / temperature, dim=1)
    total = functional.kl_div(log_probabilities, target, reduction="sum", log_target=True)
    pixels = max(logits.shape[0] * logits.shape[2] * logits.shape[3], 1)
    return total * (temperature**2 / pixels)


class ConfusionScore(Score):
    """Counts pixels by their class and the class that the network gives them.

    The intersection over union of a class is the share of right pixels among those that are of the class or were
    given to it; a class without any such pixel is left out of the mean.
    """

    def __init__(self) -> None:
        self.counts: Tensor | None = None
        """int64 [classes, classes], on the CPU: rows are the masks' classes, columns the network's."""

    def add(self, answers: Any, targets: Tensor) -> None:
        """Judge one batch; logits are brought to the masks' size, and of equal ones the lower class counts."""
        logits, _ = logits_of(answers)
        for start in range(0, len(targets), _AT_ONCE):
            part, masks = logits[start : start + _AT_ONCE], targets[start : start + _AT_ONCE]
            self._count(resampled(part.float(), masks.shape[1:]).argmax(dim=1), masks, logits.shape[1])

    def _count(self, decided: Tensor, masks: Tensor, classes: int) -> None:
        known = masks != IGNORED
        places = masks[known].long() * classes + decided[known]
        counts = places.bincount(minlength=classes * classes).view(classes, classes).cpu()
        self.counts = counts if self.counts is None else self.counts + counts

    def join(self, others: Sequence[Score]) -> None:
        """Take over what other processes have judged."""
        for other in others:
            assert isinstance(other, ConfusionScore)
            if other.counts is not None:
                self.counts = other.counts if self.counts is None else self.counts + other.counts

    def figures(self) -> dict[str, float]:
        """Give the mean intersection over union and the share of right pixels, in percent; 0 of no pixel."""
        ratios = self.by_class()
        known = [ratio for ratio in ratios if ratio is not None]
        pixels = 0 if self.counts is None else int(self.counts.sum())
        right = 0 if self.counts is None else int(self.counts.diagonal().sum())
        return {
            Segmentation.measure: 100.0 * sum(known) / max(len(known), 1),
            "pixel accuracy": 100.0 * right / max(pixels, 1),
        }

    def uncertainty(self) -> float:
        """Say by how many points chance moves the mean, from the number of pixels of each class."""
        return 0.0 if self.counts is None else uncertainty_of_mean(self.counts.sum(dim=1).tolist())

    def by_class(self) -> list[float | None]:
        """Give the intersection over union, 0..1, of each class; None where neither mask nor network has it."""
        if self.counts is None:
            return []
        right = self.counts.diagonal().tolist()
        unions = (self.counts.sum(0) + self.counts.sum(1) - self.counts.diagonal()).tolist()
        return [hits / union if union else None for hits, union in zip(right, unions, strict=True)]


class Segmentation(Task):
    """Targets are masks uint8 [N, H, W]: class numbers, and 255 where a pixel counts nowhere.

    Networks return logits [N, classes, h, w], at the masks' size or at a fraction of it: loss and measure then bring
    them to the masks' size bilinearly, as it is usual, so that the network itself can end at a quarter or an eighth.
    ``logits_of`` says which other forms are understood. QFD compares the input of the last layer place by place.

    Attributes:
        weights: of each class in the loss of labels, where rare classes are to count for more; set them in a class of
            your own that derives from this one.
    """

    name = "segmentation"
    measure = "mIoU"
    pools_features = False
    weights: tuple[float, ...] = ()

    def hard_loss(self, answers: Any, targets: Tensor, smoothing: float = 0.0) -> Terms:
        """Compute the cross entropy by pixel, and that of auxiliary classifiers by ``AUXILIARY``."""
        logits, others = logits_of(answers)
        terms = {"ce": pixel_cross_entropy(logits, targets, smoothing, self.weights)}
        if others:
            further = [pixel_cross_entropy(other, targets, smoothing, self.weights) for other in others]
            terms["auxiliary"] = AUXILIARY * sum(further[1:], further[0])
        return terms

    def soft_loss(self, answers: Any, imitated: Any, temperature: float) -> Terms:
        """Compute ``T^2 KL(p_imitated || p)`` by pixel, of the main logits."""
        return {"kl": pixel_kl(logits_of(answers)[0], logits_of(imitated)[0], temperature)}

    def score(self) -> Score:
        """Count pixels by class."""
        return ConfusionScore()

    def decisions(self, answers: Any) -> Tensor:
        """Take the class of the largest logit: masks uint8 [N, h, w] of the logits' own size."""
        decided: Tensor = logits_of(answers)[0].argmax(dim=1)
        return decided.byte()

    def check_answers(self, answers: Any, images: int, classes: int, name: str) -> None:
        """Refuse networks that return no logits [N, classes, h, w].

        Raises:
            UserError: as it says.
        """
        try:
            shape = list(logits_of(answers)[0].shape)
        except ValueError:
            shape = None
        if shape is None or len(shape) != 4 or shape[:2] != [images, classes] or not all(shape[2:]):
            got = type(answers).__name__ if shape is None else shape
            of = " as 'out', 'logits' or its first tensor" if isinstance(answers, (Mapping, tuple, list)) else ""
            raise UserError(
                f"{name} returns {got}{of} for {images} images; segmentation needs logits of shape "
                f"[{images}, {classes}, height, width], or a --task (task=...) of its own"
            )

    def check_targets(self, targets: Tensor, classes: Sequence[str], name: str) -> None:
        """Refuse targets that are no masks, or hold class numbers without a name.

        Raises:
            UserError: as it says.
        """
        kind = str(targets.dtype).removeprefix("torch.")
        if targets.dim() != 3 or kind != "uint8":
            raise UserError(
                f"data set {name} has targets {kind} {list(targets.shape)}; segmentation needs masks uint8 [N, H, W] "
                f"of class numbers, with {IGNORED} where nothing counts"
            )
        if len(classes) > MOST_CLASSES:
            raise UserError(f"data set {name} has {len(classes)} classes; masks of bytes tell {MOST_CLASSES} apart")
        if self.weights and len(self.weights) != len(classes):
            raise UserError(
                f"the task {self.name} weighs {len(self.weights)} classes, but {name} has {len(classes)}; give each "
                "class one weight"
            )
        counts = sum(mask.flatten().bincount(minlength=IGNORED + 1) for mask in targets)
        found = [value for value, count in enumerate(counts.tolist()) if count and value != IGNORED]
        if not found:
            raise UserError(f"the masks of {name} ignore every pixel; give class numbers from 0 to {len(classes) - 1}")
        if found[-1] >= len(classes):
            raise UserError(
                f"the masks of {name} hold the class {found[-1]}, but its {len(classes)} classes are numbered from 0; "
                f"write {IGNORED} where nothing counts, or name more classes"
            )


SEGMENTATION = Segmentation()
"""The task of data sets with masks."""
