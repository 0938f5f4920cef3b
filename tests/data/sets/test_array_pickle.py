from __future__ import annotations

import codecs
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qkd_deploy.data.sets.array_pickle import load_arrays
from qkd_deploy.errors import UserError


class Calls:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize(
    ("function", "arguments", "asked_for"),
    [
        (os.system, ("touch MARK",), "system"),
        (subprocess.getoutput, ("touch MARK",), "getoutput"),
        (eval, ("open('MARK', 'w')",), "eval"),
        (exec, ("open('MARK', 'w')",), "exec"),
        (open, ("MARK", "w"), "open"),
        (getattr, ("text", "upper"), "getattr"),
        (np.load, ("MARK",), "load"),
    ],
)
def test_calls_are_refused_and_not_made(
    protocol: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    asked_for: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil").write_bytes(pickle.dumps({"data": Calls(function, *arguments)}, protocol=protocol))
    with pytest.raises(UserError, match=f"evil is refused, as it wants to run code .*{asked_for}"):
        load_arrays(tmp_path / "evil")
    assert not (tmp_path / "MARK").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",  # attribute of an admitted name
        b"\x80\x04\x8c\x16numpy.core.multiarray\x8c\x18_reconstruct.__globals__\x93.",
        b"cnumpy\nndarray.tofile\n.",
        b"ios\nsystem\n(S'true'\no.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02c_codecs\nencode\nU\x01xU\x03zip\x86R.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x05\x00\x00\x00zlib_\x86R.",
    ],
)
def test_indirect_ways_are_refused(program: bytes, tmp_path: Path) -> None:
    (tmp_path / "evil").write_bytes(program)
    with pytest.raises(UserError) as caught:
        load_arrays(tmp_path / "evil")
    assert "\n" not in str(caught.value)


def test_only_the_harmless_encoding_is_imitated(tmp_path: Path) -> None:
    (tmp_path / "evil").write_bytes(pickle.dumps({"data": Calls(codecs.encode, "text", "utf-7")}, protocol=2))
    with pytest.raises(UserError, match=r"is refused, as it wants to run code .*_codecs\.encode"):
        load_arrays(tmp_path / "evil")


@pytest.mark.parametrize(
    "array",
    [np.zeros(3, np.int64), np.zeros(3, object), np.zeros(3, [("a", "u1")]), np.zeros(3, bool), np.array(["a"])],
    ids=lambda array: str(array.dtype),
)
def test_arrays_of_other_types_are_refused(array: Any, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(pickle.dumps({"data": array}, protocol=2))
    with pytest.raises(UserError, match="other"):
        load_arrays(tmp_path / "other")


def test_a_shape_that_exceeds_the_bytes_is_refused(tmp_path: Path, dump_python2: Callable[..., bytes]) -> None:
    good = dump_python2({"data": np.zeros((2, 3), np.uint8)})
    (tmp_path / "good").write_bytes(good)
    assert load_arrays(tmp_path / "good")["data"].shape == (2, 3)
    for claimed in (b"J\x02\x00\x00\x00J\x04\x00\x00\x00", b"J\xff\xff\xff\xffJ\xfa\xff\xff\xff"):
        (tmp_path / "bad").write_bytes(good.replace(b"J\x02\x00\x00\x00J\x03\x00\x00\x00", claimed))
        with pytest.raises(UserError, match="claims the shape"):
            load_arrays(tmp_path / "bad")


def test_memory_order_is_kept(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for order in (array, np.asfortranarray(array)):
        (tmp_path / "file").write_bytes(pickle.dumps({"data": order}, protocol=4))
        assert np.array_equal(load_arrays(tmp_path / "file")["data"], array)


@pytest.mark.parametrize("content", [b"", b"\x80", b"garbage", pickle.dumps([1]), pickle.dumps(None)])
def test_what_is_no_dictionary_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=r"file cannot be read"):
        load_arrays(tmp_path / "file")
