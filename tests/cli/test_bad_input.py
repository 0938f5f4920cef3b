"""Every mistake of a user is exit code 2, one line that says what is wrong and what to do, and nothing left behind."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from qkd_deploy.checkpoints.torch_file import save_tensors


@dataclass(frozen=True)
class Case:
    """A command line, and what its one line of error must contain."""

    line: str
    says: tuple[str, ...]
    largest_file: int | None = None

    @property
    def name(self) -> str:
        return self.line + (" on a full disk" if self.largest_file else "")


def case(line: str, *says: str) -> Case:
    return Case(line, says)


TRAIN = [
    case("train --dataset digts", "unknown data set 'digts'", "did you mean 'digits'?"),
    case("train --dataset cifar10", "--data-dir"),
    case("train --dataset cifar10 --data-dir nowhere", "no folder nowhere", "--data-dir"),
    case("train --dataset cifar10 --data-dir folder", "folder holds no cifar10", "unpack"),
    case("train --dataset raises:data", "raises:data failed with ValueError: no such luck", "correct"),
    case("train --dataset wrong:number", "returned a int", "must return an ImageDataset"),
    case("train --model resnt8", "unknown model 'resnt8'", "did you mean 'resnet8'?"),
    case("train --model no_such_module:net", "cannot import no_such_module", "check the name"),
    case("train --model wrong:nunber", "no 'nunber'", "did you mean 'number'?"),
    case("train --model wrong:constant", "is a int", "name a function"),
    case("train --model wrong:number", "returned a int", "must return a torch.nn.Module"),
    case("train --model raises:net", "raises:net failed with RuntimeError: broken", "correct that model factory"),
    case("train --teacher resnt20:float.pt", "unknown model 'resnt20'", "did you mean 'resnet20'?"),
    case("train --teacher resnet20:missing.pt", "missing.pt does not exist", "check the path"),
    case("train --teacher resnet20:float.pt", "float.pt does not fit resnet20", "name the model"),
    case("train --teacher resnet20:evil.pt", "evil.pt is refused", "plain state_dict"),
    case("train --init evil.pickle", "evil.pickle is refused"),
    case("train --init text.pt", "text.pt is refused: it is damaged", "use a checkpoint"),
    case("train --model plaincnn --init nan-float.pt", "NaN", "use an earlier or another file"),
    case("train --method qdk", "unknown method 'qdk'", "did you mean 'qkd'?"),
    case("train --placement intger", "--placement", "did you mean 'integer'?"),
    case("train --bits w9a9", "out of range", "did you mean 'w8a8'?"),
    case("train --bits 4w4a", "not of the form wXaY", "did you mean 'w4a4'?"),
    case("train --bits-for layer3", "--bits-for", "write PATTERN=wXaY"),
    case("train --bits-for layer3.*=w1a1", "out of range", "did you mean 'w2a2'?"),
    case("train --bits-for lyer3.*=w8a8 --pretrain-epochs 1", "'lyer3.*' matches no layer"),
    case("train --epochs -1", "epochs [-1]", "give positive numbers"),
    case("train --epochs 0", "epochs [0]", "give positive numbers"),
    case("train --epochs 3,x", "--epochs", "30,100,70"),
    case("train --pretrain-epochs 0", "pretrain_epochs is 0", "at least 1"),
    case("train --batch-size 0", "batch_size is 0", "at least 2"),
    case("train --lr nan", "lr is nan", "must be a number above 0"),
    case("train --lr fast", "--lr", "not a valid float"),
    case("train --seed -1", "seed is -1", "at least 0"),
    case("train --precision fp8", "--precision", "choose one of fp32, bf16"),
    case("train --device gpu", "device 'gpu' is not available", "--device auto"),
    case("train --config missing.toml", "cannot read the configuration missing.toml", "check the path"),
    case("train --config folder", "cannot read the configuration folder", "check the path"),
    case("train --config syntax.toml", "syntax.toml is not a TOML file", "correct it"),
    case("train --config model.pt", "model.pt is not a TOML file", "correct it"),
    case("train --config unknown.toml", "unknown setting 'epoch'", "did you mean 'epochs'?"),
    case("train --config type.toml", "batch_size is 'many'", "must be a whole number"),
    case("train --config table.toml", "bits_for is 3", "must map patterns to bits"),
    case("train --config bits.toml", "out of range", "did you mean 'w8a8'?"),
    case("train --out run", "run already holds a run", "--resume", "--out"),
    case("train --resume --out folder", "holds no run to resume", "--out"),
    case("train --resume --out run --seed 7", "started with seed = 0, not 7", "same settings"),
    case(
        "train --resume --out damaged",
        "last.pt",
        "start again with another --out",
    ),
    case("train --out text.pt", "text.pt", "choose another --out"),
    case("train --out text.pt/run", "text.pt", "choose another --out"),
    case("train --no-such-option", "--no-such-option"),
    case("train extra", "unexpected extra argument"),
]

EXPORT = [
    case("export", "Missing argument 'MODEL.PT'"),
    case("export missing.pt", "missing.pt does not exist", "check the path"),
    case("export folder", "folder is a folder", "name a file"),
    case("export truncated.pt", "truncated.pt is damaged", "use another file"),
    case("export garbage.pt", "garbage.pt is refused: it is damaged", "use a checkpoint"),
    case("export empty.pt", "empty.pt is damaged", "use another file"),
    case("export text.pt", "text.pt is refused: it is damaged", "use a checkpoint"),
    case("export dict.pt", "dict.pt is not a checkpoint of qkd-deploy", "use the model.pt"),
    case("export tensor.pt", "tensor.pt is not a checkpoint of qkd-deploy", "use the model.pt"),
    case("export model.onnx --output other.onnx", "model.onnx is refused: it is damaged", "use a checkpoint"),
    case("export model.onnx", "model.onnx is no checkpoint", "use the model.pt"),
    case("export evil.pt", "evil.pt is refused", "run code"),
    case("export evil.pickle", "evil.pickle is refused", "no file of torch.save"),
    case("export nan.pt", "NaN or infinite values in network.features.0.weight", "use an earlier or another file"),
    case("export zero-step.pt", "quantization step is 0", "use another file"),
    case("export future.pt", "format 99", "use the program's version"),
    case("export halved.pt", "halved.pt is damaged", "'quantization'", "use another checkpoint"),
    case("export float.pt", "full-precision network", "use the model.pt"),
    case("export factory.pt", "--model payload:build", "name it again"),
    case("export model.pt --model no_such_module:net", "cannot import no_such_module"),
    case("export model.pt --model raises:net", "failed with RuntimeError: broken"),
    case("export model.pt --model resnet8", "model.pt does not fit resnet8", "name the model it belongs to"),
    case("export --bits w8a8 model.pt", "trained at w4a4, not w8a8", "use --bits w4a4"),
    case("export --bits w9a9 model.pt", "out of range", "did you mean 'w8a8'?"),
    case("export --bits 4w4a model.pt", "not of the form wXaY", "did you mean 'w4a4'?"),
    case("export --target tensorrt model.pt", "'tensorrt' is not supported", "choose one of ort, "),
    case("export --weights pakced model.pt", "did you mean 'packed'?"),
    case("export --input uint16 model.pt", "did you mean 'uint8'?"),
    case("export model.pt --output folder", "cannot write folder: it is a folder", "name a file"),
    case("export model.pt --output text.pt/m.onnx", "cannot write text.pt/m.onnx", "choose another path"),
    case("export model.pt --output model.pt", "is the checkpoint itself", "choose another --output"),
    case("export model.pt --output /dev/full", "cannot write /dev/full", "name a file"),
    Case("export model.pt --output new/m.onnx", ("cannot write new/m.onnx", "free some space"), largest_file=20_000),
    Case("export model.pt", ("cannot write model.onnx", "free some space"), largest_file=20_000),
]

VERIFY = [
    case("verify", "Missing argument 'MODEL.ONNX'"),
    case("verify missing.onnx --dataset digits", "no file missing.onnx", "qkd-deploy export"),
    case("verify folder --dataset digits", "cannot read folder"),
    case(
        "verify truncated.onnx --dataset digits", "truncated.onnx is no ONNX model, or it is damaged", "export it again"
    ),
    case("verify garbage.pt --dataset digits", "garbage.pt is no ONNX model"),
    case("verify text.pt --dataset digits", "text.pt is no ONNX model"),
    case("verify empty.pt --dataset digits", "empty.pt is no ONNX model"),
    case("verify model.pt --dataset digits", "model.pt is no ONNX model"),
    case("verify foreign.onnx --dataset digits", "not exported by qkd-deploy"),
    case("verify tables.onnx --dataset digits", "qkd_deploy.tensors is damaged", "export the model again"),
    case("verify model.onnx --require-checkpoint", "--require-checkpoint asks for proof", "give --checkpoint"),
    case("verify model.onnx --json model.onnx", "--json would replace model.onnx", "choose another file"),
    case("verify model.onnx --json ./model.onnx", "--json would replace model.onnx", "choose another file"),
    case("verify model.onnx --checkpoint model.pt --json model.pt", "--json would replace model.pt"),
    case("verify model.onnx --inputs good.npy --json good.npy", "--json would replace good.npy"),
    case(
        "train --init weights/model.pt --out weights", "the run would replace weights/model.pt", "choose another --out"
    ),
    case(
        "train --teacher resnet20:weights/model.pt --out weights", "the run would replace weights/model.pt", "--teacher"
    ),
    case("verify model.onnx --dataset digts", "did you mean 'digits'?"),
    case("verify model.onnx --dataset cifar10", "--data-dir"),
    case("verify model.onnx --dataset data:large", "1x8x8", "3x32x32"),
    case("verify model.onnx --dataset data:seven", "10 outputs", "7 classes"),
    case("verify model.onnx --dataset digits --split tset", "did you mean 'test'?"),
    case("verify model.onnx --dataset digits --limit 0", "--limit"),
    case("verify model.onnx --limit 5", "--limit counts images", "give --dataset or --inputs"),
    case("verify model.onnx --split train", "belong to a data set", "give --dataset"),
    case("verify model.onnx --dataset digits --limit many", "--limit", "not a valid integer"),
    case("verify model.onnx --dataset digits --tolerance -1", "--tolerance"),
    case("verify model.onnx --dataset digits --tolerance nan", "--tolerance"),
    case("verify model.onnx --dataset digits --inputs good.npy", "not both"),
    case("verify model.onnx --inputs missing.npy", "no file missing.npy"),
    case("verify model.onnx --inputs folder", "cannot read folder"),
    case("verify model.onnx --inputs shape.npy", "1x8x8", "4x1x9x9"),
    case("verify model.onnx --inputs rank.npy", "1x8x8", "4x64"),
    case("verify model.onnx --inputs type.npy", "int64", "give uint8 pixels or float32 values"),
    case("verify model.onnx --inputs nan.npy", "NaN", "remove them"),
    case("verify model.onnx --inputs none.npy", "at least one"),
    case("verify model.onnx --inputs objects.npy", "pickled objects", "allow_pickle=False"),
    case("verify model.onnx --inputs objects.npz", "pickled objects", "allow_pickle=False"),
    case("verify model.onnx --inputs evil.pickle", "pickled objects", "allow_pickle=False"),
    case("verify model.onnx --inputs text.pt", "holds no plain arrays"),
    case("verify model.onnx --inputs empty.pt", "empty.pt"),
    case("verify model.onnx --inputs names.npz", "the inputs x", "image"),
    case("verify model.onnx --dataset digits --checkpoint missing.pt", "missing.pt does not exist"),
    case("verify model.onnx --dataset digits --checkpoint evil.pt", "evil.pt is refused"),
    case("verify model.onnx --dataset digits --checkpoint float.pt", "full-precision network"),
    case("verify model.onnx --dataset digits --checkpoint factory.pt", "--model payload:build"),
    case("verify model.onnx --dataset digits --model plaincnn", "give --checkpoint too"),
    case("verify model.onnx --json text.pt/r.json", "cannot write text.pt/r.json", "choose another path"),
    case("verify model.onnx --json folder", "cannot write folder: it is a folder"),
    case("verify model.onnx --json /dev/full", "cannot write /dev/full: it is no file"),
]

INSPECT = [
    case("inspect", "Missing argument"),
    case("inspect missing.pt", "missing.pt does not exist"),
    case("inspect missing.onnx", "no file missing.onnx"),
    case("inspect folder", "cannot read folder"),
    case("inspect text.pt", "text.pt is refused: it is damaged", "use a checkpoint"),
    case("inspect truncated.pt", "truncated.pt", "use another file"),
    case("inspect truncated.onnx", "truncated.onnx is no ONNX model, or it is damaged"),
    case("inspect evil.pt", "evil.pt is refused"),
    case("inspect dict.pt", "dict.pt is not a checkpoint of qkd-deploy"),
    case("inspect factory.pt", "--model payload:build"),
    case("inspect foreign.onnx", "not exported by qkd-deploy"),
    case("inspect lost.onnx", "lacks the weights of features.4", "export it again"),
    case("inspect model.onnx --model plaincnn", "leave it out"),
    case("inspect syntax.toml", "syntax.toml is no ONNX model"),
]

BENCH = [
    case("bench missing.onnx", "no file missing.onnx"),
    case("bench folder", "cannot read folder"),
    case("bench truncated.onnx", "truncated.onnx is no ONNX model, or it is damaged"),
    case("handoff model.onnx", "Missing option '--out'"),
    case("handoff model.pt --out bundle", "model.pt is no ONNX model"),
    case("handoff foreign.onnx --out bundle", "not exported by qkd-deploy"),
    case("handoff model.onnx --out model.pt", "it is a file"),
    case("handoff model.onnx --out bundle --limit 3", "give --dataset too"),
    case("handoff model.onnx --out bundle --target ort-mobile", "is no file for ort-mobile"),
    case("handoff model.onnx --out bundle --sign missing.key", "cannot read the key missing.key"),
    case("verify model.onnx --key public.pem", "only bundles are signed", "leave --key out"),
    case("bench model.pt", "model.pt is no ONNX model"),
    case("bench foreign.onnx --against fp32", "not exported by qkd-deploy"),
    case("bench model.onnx --against fp23", "did you mean 'fp32'?"),
    case("bench model.onnx --against openvino", "choose one of fp32, unreplaced"),
    case("bench model.onnx --against fp32", "give --checkpoint too"),
    case("bench model.onnx --against missing.onnx", "no file missing.onnx"),
    case("bench model.onnx --checkpoint model.pt", "give --against fp32 or unreplaced too"),
    case("bench model.onnx --against fp32 --model plaincnn", "give --checkpoint too"),
    case("bench model.onnx --threads 0", "--threads"),
    case("bench model.onnx --batch 0", "--batch"),
    case("bench model.onnx --rounds 0", "--rounds"),
]
REPORT = [
    case("report", "Missing argument"),
    case("report folder", "folder holds no run", "give a folder that qkd-deploy train --out wrote"),
    case("report missing", "missing holds no run"),
    case("report model.pt", "model.pt holds no run"),
    case("report run missing.onnx", "no file missing.onnx"),
    case("report run foreign.onnx", "not exported by qkd-deploy"),
    case("report run truncated.onnx", "truncated.onnx is no ONNX model, or it is damaged"),
    case("report run --output folder", "cannot write folder: it is a folder"),
    case("report run --output run/config.toml", "would replace run/config.toml", "choose another --output"),
    case("report run --limit 0", "--limit"),
    case("report run --dataset digts", "unknown data set 'digts'"),
]

CASES = [*TRAIN, *EXPORT, *VERIFY, *INSPECT, *BENCH, *REPORT]


class Payload:
    """Unpickling an instance creates a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


MODULES = {
    "payload.py": "import os\nos.mkdir('imported')\ndef build():\n    pass\n",
    "wrong.py": "constant = 3\ndef number():\n    return 3\n",
    "raises.py": "def net():\n    raise RuntimeError('broken\\nin two lines')\n\n\n"
    "def data():\n    raise ValueError('no such luck')\n",
    "data.py": (
        "import torch\nfrom qkd_deploy.data import ImageDataset, Split\n\n"
        "def make(classes, *shape):\n"
        "    split = Split(torch.zeros(20, *shape, dtype=torch.uint8), torch.arange(20) % classes)\n"
        "    return ImageDataset('own', split, split, tuple(map(str, range(classes))))\n\n"
        "def large():\n    return make(10, 3, 32, 32)\n\n"
        "def seven():\n    return make(7, 1, 8, 8)\n"
    ),
    "syntax.toml": "epochs = [1,\n",
    "unknown.toml": "epoch = 3\n",
    "type.toml": 'batch_size = "many"\n',
    "table.toml": "bits_for = 3\n",
    "bits.toml": 'bits = "w9a9"\n',
    "text.pt": "These are no weights.\n",
    "empty.pt": "",
}


@pytest.fixture(scope="module")
def material(trained: Path) -> Path:
    """The folder in which the commands run: good files, and everything that can be wrong with one."""
    (trained / "folder").mkdir()
    (trained / "weights").mkdir()
    (trained / "weights/model.pt").write_bytes((trained / "run/checkpoints/student-float.pt").read_bytes())
    for name, text in MODULES.items():
        (trained / name).write_text(text)
    checkpoint = (trained / "model.pt").read_bytes()
    exported = (trained / "model.onnx").read_bytes()
    (trained / "truncated.pt").write_bytes(checkpoint[: len(checkpoint) // 2])
    (trained / "truncated.onnx").write_bytes(exported[: len(exported) // 2])
    (trained / "garbage.pt").write_bytes(np.random.default_rng(0).bytes(5000))
    (trained / "float.pt").write_bytes((trained / "run/checkpoints/student-float.pt").read_bytes())
    write_checkpoints(trained)
    write_pickles(trained)
    write_arrays(trained)
    write_onnx(trained)
    damaged = trained / "damaged"
    (damaged / "checkpoints").mkdir(parents=True)
    (damaged / "config.toml").write_bytes((trained / "run/config.toml").read_bytes())
    torch.save({"format": "another"}, damaged / "checkpoints" / "last.pt")
    return trained


def write_checkpoints(folder: Path) -> None:
    def changed(source: str, name: str, **entries: Any) -> dict[str, Any]:
        content: dict[str, Any] = {**torch.load(folder / source, weights_only=True), **entries}
        save_tensors(folder / name, content)
        return content

    weights = torch.load(folder / "model.pt", weights_only=True)["state_dict"]
    first = "network.features.0.weight"
    changed("model.pt", "nan.pt", state_dict={**weights, first: torch.full_like(weights[first], float("nan"))})
    step = next(name for name in weights if name.endswith(".step.start") and name.startswith("weights"))
    changed("model.pt", "zero-step.pt", state_dict={**weights, step: torch.zeros_like(weights[step])})
    changed("model.pt", "future.pt", format_version=99)
    changed("model.pt", "halved.pt", quantization={"bits": "w4a4"})
    content = changed("model.pt", "factory.pt")
    changed("model.pt", "factory.pt", model={**content["model"], "name": "payload:build"})
    plain = torch.load(folder / "float.pt", weights_only=True)["state_dict"]
    torch.save({name: value + float("nan") for name, value in plain.items()}, folder / "nan-float.pt")
    torch.save({"epoch": 3}, folder / "dict.pt")
    torch.save(torch.zeros(3), folder / "tensor.pt")


def write_pickles(folder: Path) -> None:
    torch.save({"format": "qkd-deploy checkpoint", "state_dict": Payload()}, folder / "evil.pt")
    (folder / "evil.pickle").write_bytes(pickle.dumps(Payload()))


def write_arrays(folder: Path) -> None:
    images = np.zeros((4, 1, 8, 8), np.float32)
    np.save(folder / "good.npy", images)
    np.save(folder / "shape.npy", np.zeros((4, 1, 9, 9), np.float32))
    np.save(folder / "rank.npy", images.reshape(4, 64))
    np.save(folder / "type.npy", images.astype(np.int64))
    np.save(folder / "nan.npy", np.full_like(images, np.nan))
    np.save(folder / "none.npy", images[:0])
    objects = np.array([Payload(), Payload()], dtype=object)
    np.save(folder / "objects.npy", objects, allow_pickle=True)
    np.savez(folder / "objects.npz", x=objects, allow_pickle=True)
    np.savez(folder / "names.npz", image=images)


def write_onnx(folder: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "foreign",
        [value("x", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [value("y", TensorProto.FLOAT, ["batch", 1, 8, 8])],
    )
    onnx.save(helper.make_model(graph), folder / "foreign.onnx")
    model = onnx.load(folder / "model.onnx")
    next(p for p in model.metadata_props if p.key == "qkd_deploy.tensors").value = "[{"
    onnx.save(model, folder / "tables.onnx")
    model = onnx.load(folder / "model.onnx")
    next(node for node in model.graph.node if node.name.startswith("features.4.weight/")).name = "elsewhere"
    onnx.save(model, folder / "lost.onnx")


def listing(folder: Path) -> dict[str, str]:
    """Every file with a digest of its content, and every folder; Python's caches and lock files do not count."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts and path.name != ".lock"
    }


def test_there_are_enough_cases() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40
    assert {case.line.split()[0] for case in CASES} == {
        "train",
        "export",
        "verify",
        "inspect",
        "handoff",
        "bench",
        "report",
    }


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.name)
def test_bad_input(material: Path, warm_run: Any, bad: Case) -> None:
    before = listing(material)
    done = warm_run(bad.line, material, largest_file=bad.largest_file)
    assert re.fullmatch(r"Error: [^\n]+\n", done.err), done.err
    assert done.code == 2
    assert done.out == ""
    for text in bad.says:
        assert text in done.err
    assert listing(material) == before


@pytest.mark.parametrize("bad", [TRAIN[0], EXPORT[1], VERIFY[1], INSPECT[1], BENCH[0]], ids=lambda bad: bad.name)
def test_bad_input_of_the_installed_script(material: Path, run: Any, bad: Case) -> None:
    done = run(bad.line, material)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"Error: [^\n]+\n", done.err), done.err
    for text in bad.says:
        assert text in done.err


@pytest.mark.parametrize("line", ["inspect model.onnx", "inspect model.onnx --json", "export model.pt --json"])
def test_standard_output_that_cannot_be_written(trained: Path, run: Any, tmp_path: Path, line: str) -> None:
    output = f" --output {tmp_path / 'm.onnx'}" if line.startswith("export") else ""
    done = run(line + output, trained, stdout=Path("/dev/full"))
    assert done.code == 2
    assert re.fullmatch(r"Error: [^\n]*No space left[^\n]*\n", done.err), done.err


def test_the_payloads_would_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Payload()))
    assert Path("unpickled").is_dir()
