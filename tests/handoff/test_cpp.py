"""The program of ``examples/cpp`` replays a bundle through the library in LiteRT's wheel, as an application would."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from changed_weight import change_a_weight
from command_ways import command

SOURCES = Path(__file__).parents[2] / "examples/cpp"
COMPILER = shutil.which("g++")
RUNTIME = importlib.util.find_spec("ai_edge_litert")
pytestmark = pytest.mark.skipif(COMPILER is None or RUNTIME is None, reason="needs g++ and LiteRT")


@pytest.fixture(scope="module")
def bundle(handed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("litert")
    assert command(f"export {handed / 'model.pt'} --target litert --output m.tflite", folder).code == 0
    assert command("handoff m.tflite --dataset digits --limit 4 --images 2 --out bundle", folder).code == 0
    return folder / "bundle"


@pytest.fixture(scope="module")
def replay(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert COMPILER is not None and RUNTIME is not None and RUNTIME.origin is not None
    program, libraries = tmp_path_factory.mktemp("built") / "replay", Path(RUNTIME.origin).parent
    call = [COMPILER, "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{bundle / 'snippets'}"]
    call += [str(SOURCES / "replay.cpp"), str(SOURCES / "litert.cpp"), "-o", str(program)]
    subprocess.run([*call, str(libraries / "libLiteRt.so"), f"-Wl,-rpath,{libraries}"], check=True)
    return program


def run(program: Path, *arguments: Path) -> tuple[int, list[str], str]:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, sorted(done.stdout.splitlines()), done.stderr


def test_the_golden_inputs_give_the_golden_outputs(replay: Path, bundle: Path, tmp_path: Path) -> None:
    code, out, err = run(replay, bundle)
    assert code == 0, err
    assert out == ["PASS", "golden    images: 0 of 20 outputs differ", "golden    noise: 0 of 20 outputs differ"]
    changed = Path(shutil.copytree(bundle, tmp_path / "changed"))
    change_a_weight(changed / "m.tflite")
    code, out, _ = run(replay, changed)
    assert code == 1 and out[0] == "FAIL" and "images: 0 of" not in out[1]


def test_an_image_gets_its_label(replay: Path, bundle: Path, tmp_path: Path) -> None:
    (image, *_), (scores, *_) = (np.load(bundle / f"golden/images/{kind}_0.npy") for kind in ("input", "output"))
    (tmp_path / "pixels").write_bytes((image * 64 + 128).astype(np.uint8).tobytes())
    assert run(replay, bundle, tmp_path / "pixels")[:2] == (0, [str(scores.argmax())])


def test_what_is_missing_or_foreign_is_said(replay: Path, bundle: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    (broken / "m.tflite").write_bytes(b"something else")
    code, _, err = run(replay, broken)
    assert code == 2 and "m.tflite: LiteRT gives status" in err
    (broken / "m.tflite").unlink()
    code, _, err = run(replay, broken)
    assert code == 2 and "holds no model for this runtime" in err
