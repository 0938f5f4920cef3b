"""What training and verification have to know of a kind of problem: the one seam between methods and tasks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:  # the command line reads the tasks' names without torch
    from torch import Tensor

Terms = dict[str, "Tensor"]
"""Scalar terms of a loss by name; their sum is minimised, and each is reported."""


class Score(ABC):
    """Judges a network's answers, batch by batch; made anew for every measurement, and can be pickled."""

    @abstractmethod
    def add(self, answers: Any, targets: Tensor) -> None:
        """Judge one batch.

        Args:
            answers: of a network in evaluation mode, in the form of ``plain_answers``.
            targets: of the same images.
        """

    @abstractmethod
    def join(self, others: Sequence[Score]) -> None:
        """Take over what the scores of other processes have judged, in their order."""

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """Give the figures over all batches in percent; the first is the task's ``measure`` and stands for the rest."""

    def uncertainty(self) -> float:
        """Say by how many points chance moves the first figure on what was judged; a difference below means nothing.

        `verify` allows the float preview so much where it is more than the tolerance: rounding ties decide objects
        that are hardly seen, and one object of a rare class may be a point. 0 where every image counts alike.
        """
        return 0.0


class Task(ABC):
    """A kind of problem.

    Derive your own, and name it as ``--task package.module:Class``. An instance holds no state of a run. Targets are
    one tensor [N, ...] for a data set, so that they are shuffled, sent to devices and identified like images.

    Attributes:
        name: as the user knows it.
        measure: name of the figure that stands in the place of accuracy.
        feature_point: module whose output QFD compares, where the user names none; "" is the input of the last layer.
        pools_features: features of modules are averaged over positions; otherwise they are compared place by place.
    """

    name: ClassVar[str]
    measure: ClassVar[str]
    feature_point: str = ""
    pools_features: bool = True

    @abstractmethod
    def hard_loss(self, answers: Any, targets: Tensor, smoothing: float = 0.0) -> Terms:
        """Compare what a network in training mode returns for a batch with the targets.

        Args:
            answers: as the network returns them, all tensors in float32.
            targets: of the batch, as ``collate`` leaves them.
            smoothing: share of a label's probability that is spread over all classes.
        """

    @abstractmethod
    def soft_loss(self, answers: Any, imitated: Any, temperature: float) -> Terms:
        """Compare what a network returns with what another does; the gradient reaches the first one only.

        Args:
            answers: of the network that learns.
            imitated: of the network that is imitated; to be detached.
            temperature: softens both.
        """

    @abstractmethod
    def score(self) -> Score:
        """Begin a measurement."""

    @abstractmethod
    def decisions(self, answers: Any) -> Tensor:
        """Turn a network's plain answers into targets: what its student should decide where nothing is labelled."""

    @abstractmethod
    def check_answers(self, answers: Any, images: int, classes: int, name: str) -> None:
        """Refuse networks that this task cannot train.

        Args:
            answers: of the network in evaluation mode, in the form of ``plain_answers``.
            images: how many it was given.
            classes: of the data set.
            name: of the network, for the message.

        Raises:
            UserError: they are of another form or shape.
        """

    @abstractmethod
    def check_targets(self, targets: Tensor, classes: Sequence[str], name: str) -> None:
        """Refuse targets of a data set that are none of this task.

        Args:
            targets: of a split, [N, ...].
            classes: class names.
            name: of the data set, for the message.

        Raises:
            UserError: they are of another form, or out of range.
        """

    def collate(self, targets: Tensor) -> Tensor:
        """Prepare the targets of a training batch, such as by leaving out padding."""
        return targets


def uncertainty_of_mean(counts: Iterable[int]) -> float:
    """Compute the uncertainty in points of a mean over classes.

    It is the largest standard error that a mean of shares can have, that of objects which are found with a chance of
    one half, each by itself; and at least what one object of the rarest class moves that is taken for one of the next
    rarest. So it is 1.58 for 10 classes of 100 objects, and 10.1 where one of these classes has a single object.

    Args:
        counts: objects, or pixels, of each class; classes without any are in no mean.
    """
    shares = sorted((1 / count for count in counts if count), reverse=True)
    return max(50.0 * math.sqrt(sum(shares)), 100.0 * sum(shares[:2])) / max(len(shares), 1)


def plain_answers(answers: Any) -> Any:
    """Bring a network's answers into the form that exported files give, whatever it is made of.

    Returns:
        one tensor; or a dict of tensors by name, for a dict of tensors; or a tuple of all tensors in order.
    """
    from torch import Tensor
    from torch.utils._pytree import tree_leaves

    if isinstance(answers, Tensor):
        return answers
    if isinstance(answers, Mapping) and all(isinstance(value, Tensor) for value in answers.values()):
        return dict(answers)
    tensors = tuple(leaf for leaf in tree_leaves(answers) if isinstance(leaf, Tensor))
    return tensors[0] if len(tensors) == 1 else tensors
