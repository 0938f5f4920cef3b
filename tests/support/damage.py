"""Damage by choice of hypothesis: of bytes, of any field of a protobuf message, and of any place in JSON."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import Message
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("QKD_FUZZ", "0"))
"""How many files of each kind are tried; without it, a few that are the same every time."""
FUZZ = settings(
    max_examples=EXAMPLES or 40,
    derandomize=EXAMPLES == 0,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

ENDS: Counter[tuple[str, str]] = Counter()
"""What was tried, and how it ended, of all files in this process."""

Draw = Callable[[st.SearchStrategy[Any]], Any]

INTEGERS = st.sampled_from([0, 1, -1, 2, 7, 21, 127, 255, 2**31 - 1, -(2**31), 10**6]) | st.integers(-300, 300)
FLOATS = st.sampled_from([0.0, -1.0, float("nan"), float("inf"), 1e30, 1e-45])
WORDS = [
    "",
    "x",
    "\n",
    "\x1b[8m",
    "a[/b]",
    "Loop",
    "stem.scale",
    "stem.dequantized",
    "block.conv1.weight",
    "\ud7ff",
    "é" * 40,
]
NOTHING_LIKE_IT = st.sampled_from(
    [None, True, 5, -1, 10**30, 1e30, 0.5, "", "5", "\n", [], [None], [[[]]], {}, {"name": 5}, {"": {"": None}}]
)


def damaged_bytes(draw: Draw, data: bytes) -> bytes:
    """``data`` with one to four pieces flipped, taken out, put in or copied elsewhere."""
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(data) - 1)), draw(st.sampled_from([0, 1, 1, 2, 8, 100]))
        start = draw(st.integers(0, len(data) - 1))
        piece = draw(st.binary(min_size=1, max_size=8) | st.just(data[start : start + 40]))
        data = data[:at] + draw(st.sampled_from([b"", piece])) + data[at + length :] or b"\0"
    return data


def damage_a_field(draw: Draw, message: Message) -> None:
    """Change one field, anywhere in a message."""
    places = list(_fields(message))
    owner, field = places[draw(st.integers(0, len(places) - 1))]
    if _is_repeated(field):
        _damage_repeated(draw, getattr(owner, field.name), field)
    elif field.message_type is not None:
        owner.ClearField(field.name)
    else:
        setattr(owner, field.name, draw(_values(field)))


def damaged_json(draw: Draw, value: Any) -> Any:
    """``value`` with something else at one place in it."""
    inside = isinstance(value, (dict, list)) and value and draw(st.integers(0, 3))
    if not inside:
        return draw(NOTHING_LIKE_IT)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[draw(st.integers(0, len(keys) - 1))]
    if draw(st.integers(0, 5)) == 0:
        return {k: v for k, v in value.items() if k != key} if isinstance(value, dict) else [*value, value[key]]
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[key] = damaged_json(draw, value[key])  # type: ignore[index]
    return changed


def _is_repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _fields(message: Message) -> Iterator[tuple[Message, Any]]:
    """Every field that could be set, in every message that is there."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if _is_repeated(field) else (value,):
                yield from _fields(part)


def _damage_repeated(draw: Draw, values: Any, field: Any) -> None:
    deed = draw(st.sampled_from(["add", "copy", "drop", "clear", "swap"]))
    at = draw(st.integers(0, max(len(values) - 1, 0)))
    if deed == "add" and field.message_type is not None:
        values.add()
    elif deed == "add":
        values.append(draw(_values(field)))
    elif not values:
        return
    elif deed == "copy":
        values.extend([values[at]])
    elif deed == "drop":
        del values[at]
    elif deed == "clear":
        del values[:]
    else:
        kept = [*values][at:] + [*values][:at]
        copies = [type(v).FromString(v.SerializeToString()) if isinstance(v, Message) else v for v in kept]
        del values[:]
        values.extend(copies)


def _values(field: Any) -> st.SearchStrategy[Any]:
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return FLOATS
    if field.cpp_type == field.CPPTYPE_STRING and field.type == field.TYPE_BYTES:
        return st.binary(max_size=20)
    if field.cpp_type == field.CPPTYPE_STRING:
        return st.sampled_from(WORDS)
    if field.cpp_type == field.CPPTYPE_ENUM:
        return st.sampled_from([value.number for value in field.enum_type.values])
    small = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32)
    return INTEGERS if not small else INTEGERS.filter(lambda n: -(2**31) <= n < 2**31)
