"""The model under test: the file, and the torch models of its checkpoint if there is one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx

from qkd_deploy.export.metadata import Metadata
from qkd_deploy.runtimes.runtime import Runtime
from qkd_deploy.verification.compare import CodesComparison
from qkd_deploy.verification.decoding import DecodeFile
from qkd_deploy.verification.reference.model import ReferenceModel
from qkd_deploy.verification.runtime import DEFAULT, CodesModel, quantized_values

if TYPE_CHECKING:
    from qkd_deploy.graph.integer.model import FrozenModel
    from qkd_deploy.graph.prepared import PreparedModel

_CODE_PIXELS = 128 * 3 * 32 * 32  # inputs on which all codes are compared: 128 CIFAR images, or 2 of 224 x 224


@dataclass(frozen=True)
class ModelUnderTest:
    """One exported file; ``frozen`` and ``prepared`` are None when no checkpoint was given.

    Where the tail was cut off behind the file, ``frozen`` is the integer part of ``whole``, and ``decode`` the file
    with the tail, where that is there; elsewhere both models are one.
    ``runtime`` runs it, without saturation whatever the CPU where it is ``precise``.
    """

    model: onnx.ModelProto
    metadata: Metadata
    frozen: FrozenModel | None = None
    prepared: PreparedModel | None = None
    whole: FrozenModel | None = None
    decode: DecodeFile | None = None
    precise: bool = False
    runtime: Runtime = DEFAULT

    @cached_property
    def reference(self) -> ReferenceModel:
        """The exact interpreter of the file."""
        return ReferenceModel(self.model)

    @cached_property
    def values(self) -> dict[str, int]:
        """ONNX values that hold activation codes, with their element types, in graph order."""
        return quantized_values(self.model, {record.value for record in self.metadata.tensors})

    def session(self, threads: int = 1) -> CodesModel:
        """A session that returns all codes."""
        return CodesModel(self.model, threads, self.values, precise=self.precise, runtime=self.runtime)

    @cached_property
    def tensor_names(self) -> dict[str, str]:
        """Tensor name by ONNX value name, in graph order; values that the tables do not know keep their own name."""
        known = {record.value: record.name for record in self.metadata.tensors}
        return {value: known.get(value, value) for value in self.values}

    def comparison(self) -> CodesComparison:
        """An empty comparison of this model's codes."""
        names = list(self.tensor_names.values())
        return CodesComparison(names, {name: self.metadata.module_of(name) or name for name in names})

    def by_tensor(self, codes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Codes by tensor name instead of by ONNX value name."""
        return {self.tensor_names[value]: array for value, array in codes.items() if value in self.tensor_names}


def code_images(sample_shape: tuple[int, ...]) -> int:
    """On how many samples codes are looked at: fewer for large ones, at least two."""
    return max(2, _CODE_PIXELS // max(math.prod(sample_shape), 1))
