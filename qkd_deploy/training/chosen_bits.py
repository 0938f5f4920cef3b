"""Bits that a run chooses for its layers under a budget, once, before it quantizes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from qkd_deploy.atomic import atomic_write
from qkd_deploy.calibration.one_batch import initialize
from qkd_deploy.calibration.settings import IMAGES
from qkd_deploy.checkpoints.checkpoint import prepare_student
from qkd_deploy.checkpoints.origin import longest_origin
from qkd_deploy.data import ImageDataset
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.mixed_precision.budget import Budget
from qkd_deploy.mixed_precision.choose import choose_bits, require_possible
from qkd_deploy.training.config import TrainConfig

_MARGIN = 0.005
"""Share of a size that training may move: steps are written as decimal numbers, which differ in length."""


class BitsUnderBudget:
    """Chooses the bits of a run's layers under its budget.

    Args:
        dataset: whose training images the sensitivity is measured on.
        some_images: normalised ones for the first steps.
        config: of the run.
    """

    def __init__(self, dataset: ImageDataset, some_images: Tensor, config: TrainConfig) -> None:
        self._dataset, self._images, self._config = dataset, some_images, config
        self._budget = Budget.parse(config.auto_bits)

    def require_possible(self, network: nn.Module) -> None:
        """Refuse a budget that no choice meets; a network that is not yet trained will do.

        Raises:
            UserError: none does.
        """
        prepare, measure, config = self._preparation(network), self._measure, self._config
        require_possible(prepare, self._budget, config.auto_bits_from, base=config.bits, measure=measure)

    def chosen(self, path: Path, network: nn.Module, progress: Callable[[str], None]) -> dict[str, str]:
        """Choose bits of the modules that the budget gives others than the network's.

        A run that continues finds its earlier choice in the file ``path``.

        Args:
            path: where the choice is kept.
            network: the full-precision student.
            progress: receives the choice, and how to repeat it by hand.

        Raises:
            UserError: no choice meets the budget.
        """
        if path.exists():
            return dict(json.loads(path.read_text(encoding="utf-8")))  # its digest was compared
        config = self._config
        choice = choose_bits(
            self._preparation(network),
            self._dataset,
            self._budget,
            config.auto_bits_from,
            base=config.bits,
            images=IMAGES,
            measure=self._measure,
            progress=progress,
        )
        progress(f"{choice.in_words()}; the same by hand: {shlex.join(choice.options(config.bits))}")
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(choice.overrides(config.bits), indent=2), encoding="utf-8")
        return choice.overrides(config.bits)

    def _preparation(self, network: nn.Module) -> Callable[[str, Mapping[str, str]], PreparedModel]:
        def prepare(bits: str, bits_for: Mapping[str, str]) -> PreparedModel:
            changed = replace(self._config, bits=bits, bits_for={**self._config.bits_for, **bits_for})
            settings = changed.quantization(self._dataset.normalization, changed.quantizer)
            return prepare_student(network, list(self._dataset.train.image_shape), settings).to(self._images.device)

        return prepare

    def _measure(self, prepared: PreparedModel) -> float:
        """Count the bytes of the packed file, as large as training can make it."""
        initialize(prepared, self._images, method=self._config.step_initialization)
        model, _ = build_model(prepared, weights="packed", metadata=longest_origin(self._dataset))
        return len(model.SerializeToString()) * (1 + _MARGIN)
