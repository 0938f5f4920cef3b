"""Hold out a share of a data set where its publisher made no split."""

from __future__ import annotations

import torch

from qkd_deploy.errors import UserError


def held_out(labels: torch.Tensor) -> torch.Tensor:
    """Mark, as bool [N], every fifth image of each class, starting with its third one.

    The choice depends on the order of the images alone, and is the same in every run.

    Args:
        labels: int64 [N]; equal numbers are one class (-1 too, where nothing is labelled).
    """
    marked = torch.zeros_like(labels, dtype=torch.bool)
    for label in torch.unique(labels):
        marked[torch.where(labels == label)[0][2::5]] = True
    return marked


def divided(name: str, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide images into training and held-out ones; returns the indices int64 of both.

    Raises:
        UserError: there are too few images to keep any from training.
    """
    marked = held_out(labels)
    if not marked.any():
        raise UserError(
            f"{name} has no held-out images, and too few to keep any from training; add some, or tell held-out ones "
            "apart (folders train and val, arrays x_train, y_train, x_test and y_test, or splits train and test)"
        )
    return torch.where(~marked)[0], torch.where(marked)[0]
