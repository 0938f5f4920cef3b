"""Golden inputs and results: what any runtime must compute from inputs that are made anew from a recipe.

The recipe is a hash of positions (docs/decisions/0007), so that the file holds digests and outputs but no images.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict

from qkd_deploy.export.metadata.digests import array_digest
from qkd_deploy.export.metadata.fields import EXACT, Byte, Positive, Size, Whole
from qkd_deploy.pixels.arrays import normalized
from qkd_deploy.pixels.normalization import Normalization

_MOST_VALUES = 2**12
"""Of an output that is recorded as it is, and of what is recorded of a larger one."""


@dataclass(frozen=True)
class GoldenInput:
    """How to make a golden input anew, so that the file need not hold images.

    Attributes:
        shape: with the batch.
        lo, hi: range of the stored codes.
        zero_point, scale: of the input's grid; a scale of None leaves the codes as uint8.
        dtype: of inputs that are whole numbers or booleans, between ``lo`` and ``hi``; "" for codes of floats.
        normalization: of inputs that are pixels normalised otherwise than by that grid, as in the metadata; or None.
    """

    __pydantic_config__: ClassVar[ConfigDict] = EXACT

    shape: tuple[Size, ...]
    lo: Whole
    hi: Whole
    zero_point: Byte
    scale: Positive | None
    normalization: dict[str, Any] | None = None
    dtype: Literal["", "bool", "uint8", "int8", "int16", "int32", "int64"] = ""

    def array(self) -> np.ndarray:
        """Codes by an integer hash of the position, the same on every machine; float32 values unless scale is None."""
        count = int(np.prod(self.shape))
        hashed = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(2**32) >> np.uint64(13)
        codes = (self.lo + (hashed % np.uint64(self.hi - self.lo + 1)).astype(np.int64)).reshape(self.shape)
        if self.dtype:
            return codes.astype(self.dtype)
        if self.scale is None:
            return codes.astype(np.uint8)
        if self.normalization is not None:
            return normalized(codes, Normalization.of_entry(self.normalization))
        return (codes - self.zero_point).astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True)
class GoldenOutput:
    """What a file holds of an output: all of a small one; of a map every n-th place, and a digest of all of it.

    Attributes:
        values: of the output, or of every n-th place along its long dimensions.
        shape: of the output.
        digest: of all values (``array_digest``); "" where ``values`` are all.
    """

    values: np.ndarray
    shape: tuple[int, ...]
    digest: str = ""

    @classmethod
    def of(cls, array: np.ndarray) -> GoldenOutput:
        """Take what is to be recorded of an output."""
        if array.size <= _MOST_VALUES:
            return cls(array, array.shape)
        return cls(array[every_nth(array.shape)], array.shape, _digest(array))

    def part_of(self, found: np.ndarray) -> np.ndarray:
        """Those of the values found that stand where ``values`` do; all of them where the shape is another one."""
        return found[every_nth(self.shape)] if self.digest and found.shape == self.shape else found

    def holds(self, found: np.ndarray) -> bool:
        """Say if all values found are the recorded ones, in every bit; what ``values`` cannot tell is taken for so."""
        return not self.digest or (found.shape == self.shape and _digest(found) == self.digest)


def every_nth(shape: Sequence[int]) -> tuple[slice, ...]:
    """Places that are recorded of a map: all of the batch, and as many along the other dimensions as there is room for.

    Rows, columns and channels stay what they are, so that a changed channel is seen as one.
    """
    steps = [1] * len(shape)
    kept = list(shape)
    while math.prod(kept) > _MOST_VALUES and max(kept[1:], default=1) > 1:
        longest = max(range(1, len(shape)), key=kept.__getitem__)
        steps[longest] += 1
        kept[longest] = -(-shape[longest] // steps[longest])
    return tuple(slice(None, None, step) for step in steps)


def _digest(array: np.ndarray) -> str:
    return array_digest(np.add(array, 0, dtype=array.dtype))  # one kind of zero


@dataclass(frozen=True)
class Golden:
    """How to make the inputs, the outputs in graph order (one batch each), and digests of the codes by tensor name."""

    recipes: tuple[GoldenInput, ...]
    codes: dict[str, str]
    outputs: tuple[GoldenOutput, ...]

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """The inputs in graph order."""
        return tuple(recipe.array() for recipe in self.recipes)


def encode_golden(golden: Golden) -> dict[str, Any]:
    """Golden results as plain data for JSON; ``schema.parsed_golden`` reads it back."""
    return {
        "inputs": [_encode_recipe(recipe) for recipe in golden.recipes],
        "codes": golden.codes,
        "outputs": [_encode_output(output) for output in golden.outputs],
    }


def _encode_recipe(recipe: GoldenInput) -> dict[str, Any]:
    """A recipe as plain data, without a normalisation and a type where there are none."""
    return {key: value for key, value in asdict(recipe).items() if key not in ("normalization", "dtype") or value}


def _encode_output(output: GoldenOutput) -> str | dict[str, Any]:
    values = encode_array(output.values)
    return {"shape": output.shape, "digest": output.digest, "values": values} if output.digest else values


def encode_array(array: np.ndarray) -> str:
    """An array as base64 text of its .npy form."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
