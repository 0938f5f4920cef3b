"""The one place where text of a file becomes data: every entry is read once, through the types that are declared here.

Code behind it need not ask what a record holds. Entries that are JSON go through pydantic, with strict types: a number
that is text, infinite or out of range, a missing or an unknown key and nesting without end are all refused.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypeVar

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from qkd_deploy.errors import UserError
from qkd_deploy.export.metadata.digests import Digests
from qkd_deploy.export.metadata.fields import EXACT, Positive, Size
from qkd_deploy.export.metadata.golden import Golden, GoldenInput, GoldenOutput, every_nth
from qkd_deploy.export.metadata.records import DecodeRecord, DecodesRecord, LayerRecord, TensorRecord
from qkd_deploy.gate.names import PREFIX
from qkd_deploy.pixels.normalization import Normalization
from qkd_deploy.pixels.preprocessing import INTERPOLATIONS

_T = TypeVar("_T")
_LARGEST_CODE = 255
_LARGEST_INPUT = 2**27
"""Elements of a golden input, or output."""
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00..{'descr': '(?P<kind>[<|][fiu][1248]|\|b1)', 'fortran_order': False, "
    rb"'shape': \((?P<shape>[0-9, ]{0,200})\), } *\n",
    re.DOTALL,
)
"""What NumPy writes in front of arrays of numbers."""


@with_config(EXACT)
class AccuracyEntry(TypedDict):
    """What the model reached: percent over so many images of a data set, of ``measure`` where that is not accuracy."""

    dataset: str
    fingerprint: str
    images: Annotated[int, Field(ge=0)]
    integer: float
    measure: NotRequired[str]


@with_config(EXACT)
class NormalizationEntry(TypedDict):
    """What ``Normalization.as_entry`` writes."""

    mean: float | list[float]
    std: float | list[float]
    divisor: NotRequired[Positive]


@with_config(EXACT)
class PreprocessingEntry(TypedDict):
    """How evaluation resizes, crops or letterboxes image files, and which value of 16-bit greys becomes 255."""

    interpolation: NotRequired[Literal["bilinear", "bicubic"]]
    crop_pct: NotRequired[Annotated[float, Field(ge=0, le=1)] | None]
    input_range: NotRequired[Annotated[int, Field(ge=1, le=65535)]]
    fit: NotRequired[Literal["letterbox", "stretch"]]


@with_config(EXACT)
class OutputEntry(TypedDict):
    """Some values of a large output, as base64 text of their .npy form, and a digest of all."""

    shape: tuple[Size, ...]
    digest: Annotated[str, Field(min_length=1)]
    values: str


@with_config(EXACT)
class GoldenEntry(TypedDict):
    """Golden results, with outputs as base64 text of their .npy form, or parts of them."""

    inputs: Annotated[tuple[GoldenInput, ...], Field(min_length=1)]
    codes: dict[str, str]
    outputs: tuple[str | OutputEntry, ...]


assert set(INTERPOLATIONS) == {"bilinear", "bicubic"}

TENSORS = TypeAdapter(tuple[TensorRecord, ...])
LAYERS = TypeAdapter(tuple[LayerRecord, ...])
NAMES = TypeAdapter(tuple[str, ...])
ACCURACY = TypeAdapter(AccuracyEntry)
NORMALIZATION = TypeAdapter(NormalizationEntry)
PREPROCESSING = TypeAdapter(PreprocessingEntry)
REPLACED: TypeAdapter[Mapping[str, int]] = TypeAdapter(dict[str, Annotated[int, Field(ge=1)]])
SIZE_MULTIPLE: TypeAdapter[int] = TypeAdapter(Literal[1, 2, 4, 8, 16, 32, 64])
"""Of ``SIZE_MULTIPLES``."""
DECODE = TypeAdapter(DecodeRecord)
DECODES = TypeAdapter(DecodesRecord)
DIGESTS = TypeAdapter(Digests)
GOLDEN = TypeAdapter(GoldenEntry)


def parsed(entries: Mapping[str, str], key: str, schema: TypeAdapter[_T]) -> _T | None:
    """The entry ``key`` of a file as data, None where there is none.

    Raises:
        UserError: its text is no JSON, or says something else than the schema.
    """
    if key not in entries:
        return None
    try:
        return schema.validate_json(entries[key], strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise damaged(key, f"{where}: {first['msg']}" if where else first["msg"]) from error


def parsed_normalization(entries: Mapping[str, str]) -> Mapping[str, Any] | None:
    """The entry of the normalisation, with numbers that can be one.

    Raises:
        UserError: as ``parsed``, or the numbers are impossible.
    """
    found = parsed(entries, "normalization", NORMALIZATION)
    if found is not None:
        _require_normalization("normalization", found)
    return found


def parsed_golden(entries: Mapping[str, str]) -> Golden | None:
    """The golden results.

    Raises:
        UserError: as ``parsed``, or recipes or outputs are impossible.
    """
    found = parsed(entries, "golden", GOLDEN)
    if found is None:
        return None
    for recipe in found["inputs"]:
        no_codes = not recipe.dtype and not 0 <= recipe.lo <= recipe.hi <= _LARGEST_CODE
        if no_codes or recipe.lo > recipe.hi or math.prod(recipe.shape) > _LARGEST_INPUT:
            raise damaged("golden", f"a range of {recipe.lo} .. {recipe.hi}, or a shape of {list(recipe.shape)}")
        if recipe.normalization is not None:
            _require_normalization("golden", recipe.normalization)
    return Golden(found["inputs"], found["codes"], tuple(map(_output_of, found["outputs"])))


def parsed_samples(entries: Mapping[str, str]) -> tuple[np.ndarray, ...]:
    """Values of outputs that a decode file has recorded.

    Raises:
        UserError: as ``parsed``, or one of them is no array.
    """
    found = parsed(entries, "golden", NAMES)
    return tuple(map(_array_of, found or ()))


def damaged(key: str, what: str) -> UserError:
    """The complaint about an entry."""
    return UserError(f"the metadata entry {PREFIX}{key} is damaged ({what}); export the model again")


def _require_normalization(key: str, entry: Mapping[str, Any]) -> None:
    try:
        Normalization.of_entry(entry)
    except UserError as error:
        raise damaged(key, str(error)) from error


def _output_of(entry: str | OutputEntry) -> GoldenOutput:
    if isinstance(entry, str):
        values = _array_of(entry)
        return GoldenOutput(values, values.shape)
    values, shape = _array_of(entry["values"]), entry["shape"]
    if math.prod(shape) > _LARGEST_INPUT:
        raise damaged("golden", f"an output of {list(shape)}")
    kept = tuple(len(range(size)[part]) for size, part in zip(shape, every_nth(shape), strict=True))
    if values.shape != kept:
        raise damaged("golden", f"of an output of {list(shape)} it holds {list(values.shape)} values")
    return GoldenOutput(values, shape, entry["digest"])


def _array_of(text: str) -> np.ndarray:
    """An array of numbers from the base64 text of its .npy form, whose size is compared with its content first."""
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise damaged("golden", "an output is no base64") from error
    header = _NPY.match(content)
    if header is None:
        raise damaged("golden", "an output is no array of numbers")
    kind, shape = np.dtype(header["kind"].decode()), tuple(map(int, header["shape"].replace(b",", b" ").split()))
    data = content[header.end() :]
    if math.prod(shape) * kind.itemsize != len(data):
        raise damaged("golden", f"an output holds {len(data)} bytes for {kind}{list(shape)}")
    return np.frombuffer(data, kind).reshape(shape)
