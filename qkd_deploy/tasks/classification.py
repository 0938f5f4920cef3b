"""Classification: one class for each image, cross entropy, and the share of images whose largest logit is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qkd_deploy.errors import UserError
from qkd_deploy.tasks.task import Score, Task, Terms

if TYPE_CHECKING:  # the command line reads the methods' names and options without torch
    from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Compute the mean cross entropy of ``logits`` [N, classes].

    Args:
        logits: [N, classes].
        labels: int64 class numbers [N], or probabilities [N, classes].
        smoothing: share of the probability that is spread evenly over all classes.
    """
    from torch.nn import functional

    return functional.cross_entropy(logits, labels, label_smoothing=smoothing)


def distillation_kl(logits: Tensor, target_logits: Tensor, temperature: float) -> Tensor:
    """Compute ``T^2 * KL(p_target || p)`` with ``p = softmax(logits / T)``, averaged over the batch.

    The factor ``T^2`` keeps the gradient with respect to ``logits`` of order one as ``T`` grows (Hinton et al. 2015).
    The target is detached: the loss teaches only the network that produced ``logits`` (QKD, arXiv:1911.12491).

    Args:
        logits: [N, classes], of the network that learns.
        target_logits: [N, classes], of the network that is imitated.
        temperature: softens both distributions; QKD uses 2.
    """
    from torch.nn import functional

    log_probabilities = functional.log_softmax(logits / temperature, dim=1)
    target = functional.log_softmax(target_logits.detach() / temperature, dim=1)
    divergence = functional.kl_div(log_probabilities, target, reduction="batchmean", log_target=True)
    return divergence * temperature**2


class MeanScore(Score):
    """The mean over all images of a score of each, in percent."""

    def __init__(self, name: str) -> None:
        self._name, self._sum, self._count = name, 0.0, 0

    def add(self, answers: Any, targets: Tensor) -> None:
        """Judge one batch; see ``Score``."""
        self.judge(answers, targets)

    def judge(self, answers: Any, targets: Tensor) -> Tensor:
        """Judge one batch, and return the score of each image."""
        scores = self.scores(answers, targets)
        self._sum += float(scores.double().sum())
        self._count += len(scores)
        return scores

    def scores(self, answers: Any, targets: Tensor) -> Tensor:
        """Score each image in 0..1, float32 [N]; here 1 where the largest logit is the label's."""
        predicted: Tensor = answers.argmax(dim=1)
        return (predicted == targets).float()

    def join(self, others: Sequence[Score]) -> None:
        """Take over what other processes have judged."""
        for other in others:
            assert isinstance(other, MeanScore)
            self._sum += other._sum
            self._count += other._count

    def figures(self) -> dict[str, float]:
        """Give the mean in percent."""
        return {self._name: 100.0 * self._sum / self._count}


class Classification(Task):
    """Targets are class numbers, int64 [N], or probabilities of mixed images; networks return logits [N, classes]."""

    name = "classification"
    measure = "accuracy"

    def hard_loss(self, answers: Any, targets: Tensor, smoothing: float = 0.0) -> Terms:
        """Compute ``CE(y, z)``."""
        return {"ce": cross_entropy(answers, targets, smoothing)}

    def soft_loss(self, answers: Any, imitated: Any, temperature: float) -> Terms:
        """Compute ``T^2 KL(p_imitated || p)``."""
        return {"kl": distillation_kl(answers, imitated, temperature)}

    def score(self) -> Score:
        """Count right classes."""
        return MeanScore(self.measure)

    def decisions(self, answers: Any) -> Tensor:
        """Take the class of the largest logit."""
        decided: Tensor = answers.argmax(dim=1)
        return decided

    def check_answers(self, answers: Any, images: int, classes: int, name: str) -> None:
        """Refuse networks that return no logits [N, classes].

        Raises:
            UserError: as it says.
        """
        shape = list(answers.shape) if hasattr(answers, "shape") else None
        if shape != [images, classes]:
            got = type(answers).__name__ if shape is None else shape
            raise UserError(
                f"{name} returns {got} for {images} images; training needs logits of shape {[images, classes]}"
            )

    def check_targets(self, targets: Tensor, classes: Sequence[str], name: str) -> None:
        """Refuse labels that are not one class each, or have no name.

        Raises:
            UserError: as it says.
        """
        if targets.dim() != 1:
            raise UserError(f"data set {name} has labels {list(targets.shape)}; give a metric, or one class each")
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= len(classes):
            known = f"but its {len(classes)} classes are numbered from 0"
            raise UserError(f"data set {name} has labels {low}..{high}, {known}; correct one of them")


CLASSIFICATION = Classification()
"""The task of data sets that name none."""
