"""Files of other programs: weights are taken out without their code, or the way to them is named and works."""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import subprocess
import sys
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.utilities.parsing import AttributeDict
from torch import Tensor, nn

from qkd_deploy.checkpoints.weights import read_weights
from qkd_deploy.errors import UserError
from qkd_deploy.models import create_model

Weights = dict[str, Tensor]


def network() -> nn.Module:
    torch.manual_seed(0)
    return create_model("plaincnn", 10, 1).eval()


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A package that is installed where files are written, and not where they are read."""
    module = types.ModuleType("trainer_of_others")
    code = (
        "import enum\nimport torch\nfrom torch import nn\n"
        "class Detector(nn.Module):\n"
        "    def __init__(self, body):\n        super().__init__()\n        self.body, self.names = body, {0: 'cat'}\n"
        "        self.register_buffer('anchors', torch.ones(3), persistent=False)\n"
        "class Config(dict):\n    pass\nclass History(list):\n    pass\n"
        "class Buffer:\n    def __init__(self, history):\n        self.history = history\n"
        "class Mode(enum.Enum):\n    LAST = 'last'\n"
    )
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, "trainer_of_others", module)
    return module


def contents(package: Any) -> dict[str, Callable[[Weights], Any]]:
    """What trainers save, by name."""
    return {
        "imagenet example": lambda w: {"state_dict": w, "args": argparse.Namespace(lr=0.1, out=pathlib.Path("a"))},
        "timm": lambda w: {
            "state_dict": w,
            "args": argparse.Namespace(opt="sgd"),
            "metric": np.float64(71.3),
            "arch": "r",
        },
        "torchvision": lambda w: {"model": w, "scaler": {}, "args": argparse.Namespace(), "epoch": np.int64(3)},
        "lightning": lambda w: {
            "state_dict": OrderedDict((f"model.{name}", value) for name, value in w.items()),
            "hyper_parameters": AttributeDict(lr=0.1, betas=(0.9, 0.99)),
            "callbacks": {package.Buffer: {"best": torch.tensor(0.5), "dirpath": pathlib.PurePosixPath("best")}},
            "loops": {"fit_loop": {"state_dict": {}, "when": datetime(2024, 1, 1, tzinfo=UTC)}},
        },
        "mmengine": lambda w: {
            "meta": {"cfg": package.Config(a=1), "mode": package.Mode.LAST},
            "message_hub": {"loss": package.Buffer(np.arange(6.0).reshape(2, 3))},
            "state_dict": w,
        },
        "hugging face": lambda w: OrderedDict(w),
        "counters": lambda w: {
            "net": w,
            "hub": defaultdict(list, a=[1]),
            "last": deque([1, 2]),
            "act": partial(int, base=3),
        },
        "numpy weights": lambda w: {name: value.numpy() for name, value in w.items()},
        "numpy columns": lambda w: {"model": {name: np.array(value.numpy(), order="F") for name, value in w.items()}},
    }


NAMES = list(contents(None))


def equal(found: Weights, wanted: Weights) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_beside_the_weights_is_no_obstacle(
    tmp_path: Path, package: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = network().state_dict()
    torch.save(contents(package)[name](wanted), tmp_path / "weights.pth")
    monkeypatch.delitem(sys.modules, "trainer_of_others")
    found = read_weights(tmp_path / "weights.pth")
    assert equal({key.removeprefix("model."): value for key, value in found.items()}, wanted)
    assert "trainer_of_others" not in sys.modules


@pytest.mark.parametrize("form", ["alone", "in a dictionary", "averaged only"])
def test_pickled_networks_give_their_weights(
    tmp_path: Path, package: Any, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = package.Detector(network()).half()
    saved = {
        "alone": whole,
        "in a dictionary": {"model": whole, "epoch": 1},
        "averaged only": {"model": None, "ema": whole},
    }
    torch.save(saved[form], tmp_path / "whole.pt")
    monkeypatch.delitem(sys.modules, "trainer_of_others")
    assert equal(read_weights(tmp_path / "whole.pt"), whole.state_dict())
    assert "trainer_of_others" not in sys.modules


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def follow(message: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Weights:
    """Do what a message says: run its line of Python, and read the file that it leaves."""
    line = re.search(r"torch\.save\(.*'weights\.pt'\)", message)
    assert line is not None, message
    monkeypatch.chdir(folder)
    exec(line[0], {"torch": torch})
    return read_weights(folder / "weights.pt")


def scripted(path: Path) -> None:
    torch.jit.trace(network(), torch.randn(2, 1, 8, 8)).save(path)  # type: ignore[no-untyped-call]


def exported(path: Path) -> None:
    torch.export.save(torch.export.export(network(), (torch.randn(2, 1, 8, 8),)), path)


def in_the_older_format(path: Path) -> None:
    torch.save({"model": network()}, path, _use_new_zipfile_serialization=False)


def in_another_protocol(path: Path) -> None:
    torch.save({"model": network()}, path, pickle_protocol=4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("write", "called"),
    [
        (scripted, "is a TorchScript file"),
        (exported, "is a file of torch.export"),
        (in_the_older_format, "holds a qkd_deploy.models.plaincnn.PlainCnn in PyTorch's older format"),
        (in_another_protocol, "is in another protocol of pickle"),
    ],
)
def test_the_line_that_a_refusal_names_gives_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], called: str
) -> None:
    write(tmp_path / "net.pt2")
    message = refusal(tmp_path / "net.pt2")
    assert called in message
    assert equal(follow(message, monkeypatch, tmp_path), network().state_dict())


@pytest.mark.parametrize(
    ("content", "called"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 44\n", "is a pointer of Git LFS"),
        (b"\n  <!DOCTYPE html>\n<html>Not found</html>", "is a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file"),
        (b"\x1f\x8b\x08\x00" + bytes(100), "is compressed by gzip"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00" + b'{"a":{}}' + bytes(100), "is a safetensors file by its content"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path: Path, content: bytes, called: str) -> None:
    (tmp_path / "net.pt").write_bytes(content)
    assert called in refusal(tmp_path / "net.pt")


class Calls:
    def __init__(self, function: Any, *args: Any) -> None:
        self._what = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self._what


@pytest.mark.parametrize(
    "call", [Calls(os.system, "touch ran"), Calls(eval, "1"), Calls(subprocess.run, ["touch", "ran"])]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_functions_that_run_something_are_named_and_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Calls, zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = network().state_dict()
    torch.save({"state_dict": wanted, "x": call}, "evil.pt", _use_new_zipfile_serialization=zipped)
    message = refusal(Path("evil.pt"))
    assert "is refused" in message
    assert not zipped or re.search(r"wants to run code, (posix.system|builtins.eval|commands.run);", message)
    assert not Path("ran").exists()


def test_other_functions_are_not_called_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = network().state_dict()
    torch.save({"state_dict": wanted, "x": Calls(pathlib.Path.touch, Path("ran"))}, "evil.pt")
    try:
        assert equal(read_weights("evil.pt"), wanted)
    except UserError as error:
        assert "is refused" in str(error)
    assert not Path("ran").exists()


def test_lists_of_classes_of_their_own_are_named(tmp_path: Path, package: Any) -> None:
    torch.save({"state_dict": network().state_dict(), "history": package.History([1, 2])}, tmp_path / "list.pt")
    assert "holds a trainer_of_others.History, which only its own code can read" in refusal(tmp_path / "list.pt")


class Special(Tensor):
    pass


def test_tensors_of_classes_of_their_own_are_named(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3).as_subclass(Special)}, tmp_path / "special.pt")
    assert re.search(r"holds a [\w.]*Special, which only its own code can read", refusal(tmp_path / "special.pt"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["sparse", "quantized", "meta", "nested", "inside itself"])
def test_tensors_without_plain_numbers_are_no_weights(tmp_path: Path, kind: str) -> None:
    knot = nn.Module()
    knot._modules["again"] = knot
    content: dict[str, Any] = {
        "sparse": torch.eye(3).to_sparse(),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "meta": torch.empty(3, device="meta"),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "inside itself": knot,
    }
    torch.save({"model": content[kind]} if kind == "inside itself" else {"a": content[kind]}, tmp_path / "net.pt")
    assert "holds no state_dict" in refusal(tmp_path / "net.pt")
