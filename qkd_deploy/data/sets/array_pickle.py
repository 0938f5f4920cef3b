"""Read pickled dictionaries of arrays without letting the file run code.

A pickle is a program: it may name any importable function and call it. Here the only names that resolve are the
three that a pickled numpy array needs, and they resolve to inert stand-ins that merely record what the file says;
numpy itself never sees the file's words about types and strides, only bytes whose length has been checked.
"""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from qkd_deploy.data.sets.files import not_as_published


class _Refused(Exception):
    """The pickle names something that no data file needs."""


class _DType:
    """Stands in for ``numpy.dtype``; remembers the type code, such as "u1"."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment: a single byte has neither."""


class _Array:
    """Stands in for ``numpy.ndarray``; remembers the state that the file gives it."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """Stands in for ``codecs.encode``, with which Python 3 writes bytes into old protocols; latin1 only."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise _Refused("_codecs.encode")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Look up the stand-in for ``module.name``; any other name is refused."""
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def load_arrays(path: Path) -> dict[str, Any]:
    """Read the dictionary in a pickle file, with text keys; arrays become uint8 numpy arrays, bytes stay bytes.

    Raises:
        UserError: the file cannot be read, is no pickle of a dictionary, holds arrays of another type, or names
            anything that could run code.
    """
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__} where a dictionary belongs")
        return {_text(key): _to_numpy(value) for key, value in content.items()}
    except _Refused as refusal:
        raise not_as_published(path, f"is refused, as it wants to run code ({refusal})") from None
    except Exception as error:
        # A damaged pickle can fail in almost any way; all of them mean the same to the user.
        reason = str(error) or type(error).__name__
        raise not_as_published(path, f"cannot be read ({reason})") from error


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _to_numpy(value: object) -> object:
    """Turn what a stand-in recorded into a uint8 array; any other value stays as it is."""
    if not isinstance(value, _Array):
        return value
    state: Any = value.state  # of a wrong length, if at all, in a damaged file
    _, shape, dtype, by_columns, raw = state
    if not isinstance(dtype, _DType) or dtype.code not in ("u1", "|u1", "uint8") or not isinstance(raw, bytes):
        raise TypeError("an array that is not made of unsigned bytes")
    if not all(map(_is_length, shape)) or math.prod(shape) != len(raw):
        raise TypeError(f"an array of {len(raw)} bytes that claims the shape {shape}")
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if by_columns else "C")


def _is_length(value: object) -> bool:
    return isinstance(value, int) and value >= 0
