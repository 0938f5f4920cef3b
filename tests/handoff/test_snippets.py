"""The snippets of a bundle compute what evaluation computes, bit by bit."""

from __future__ import annotations

import itertools
import runpy
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qkd_deploy.data.images.decode import View, open_image
from qkd_deploy.gate.onnx_file import read_exported
from qkd_deploy.handoff.preprocessing import preprocessing_files, preprocessing_of
from qkd_deploy.handoff.product import Product, product_of
from qkd_deploy.pixels.arrays import normalized
from qkd_deploy.pixels.normalization import CENTERED, PRESETS, Normalization

FITS: tuple[dict[str, Any], ...] = (
    {},
    {"fit": "letterbox"},
    {"fit": "stretch", "interpolation": "bicubic", "crop_pct": 0.0},
    {"interpolation": "bicubic", "crop_pct": 0.875},
)
COMPILER = shutil.which("g++")


@pytest.fixture(scope="module")
def product(handed: Path) -> Product:
    return product_of(read_exported(handed / "model.onnx"))


def variant(
    product: Product, channels: int, known: Normalization, fit: Mapping[str, Any] | None = None, dtype: Any = "float32"
) -> Product:
    """What is handed over, for images of 24 x 20 pixels."""
    golden = product.metadata.golden
    assert golden is not None
    recipe = replace(golden.recipes[0], shape=(2, channels, 20, 24))
    metadata = replace(
        product.metadata,
        golden=replace(golden, recipes=(recipe,)),
        normalization=known.as_entry(),
        preprocessing=fit or None,
        input=dtype,
    )
    return replace(
        product,
        metadata=metadata,
        inputs=(replace(product.inputs[0], shape=(0, channels, 20, 24), dtype=dtype),),
    )


def snippet(product: Product, name: str) -> str:
    return dict(preprocessing_files(product))[f"snippets/{name}"].decode()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (3, "RGBA")])
def test_python_computes_what_evaluation_does(product: Product, channels: int, mode: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    known = PRESETS["imagenet"] if channels == 3 else PRESETS["half"]
    for fit, size in itertools.product(FITS, ((24, 20), (61, 40), (33, 90))):
        (tmp_path / "s.py").write_text(snippet(variant(product, channels, known, fit), "preprocess.py"))
        shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(tmp_path / "x.png")
        got = runpy.run_path(str(tmp_path / "s.py"))["preprocess"](tmp_path / "x.png")
        pixels = View(channels, 20, 24, **fit).of(open_image(tmp_path / "x.png"))[None]
        np.testing.assert_array_equal(got, normalized(pixels, known.for_channels(channels)))
        assert got.dtype == np.float32


def test_python_gives_raw_pixels_where_the_file_takes_them(product: Product, tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(snippet(variant(product, 3, CENTERED, dtype="uint8"), "preprocess.py"))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    got = runpy.run_path(str(tmp_path / "s.py"))["preprocess"](tmp_path / "x.png")
    np.testing.assert_array_equal(got, pixels.transpose(2, 0, 1)[None])
    assert got.dtype == np.uint8


@pytest.mark.skipif(COMPILER is None, reason="needs g++")
def test_cpp_computes_what_evaluation_does(product: Product, tmp_path: Path) -> None:
    """Three networks in one program: each snippet has a namespace of its own."""
    kinds = [(1, PRESETS["half"], "float32"), (3, PRESETS["imagenet"], "float32"), (3, CENTERED, "uint8")]
    program = "#include <cstddef>\n#include <cstdint>\n#include <cstdio>\n#include <vector>\n"
    calls, given, expected = "", b"", b""
    for place, (channels, known, dtype) in enumerate(kinds):
        text = snippet(variant(product, channels, known, dtype=dtype), "preprocess.cpp")
        (tmp_path / f"s{place}.cpp").write_text(text)
        program += f'namespace n{place} {{\n#include "s{place}.cpp"\n}}\n'
        calls += f"""{{
            std::vector<std::uint8_t> pixels({480 * channels});
            if (std::fread(pixels.data(), 1, pixels.size(), stdin) != pixels.size()) return 1;
            const auto input = n{place}::preprocess(pixels.data());
            std::fwrite(input.data(), sizeof input[0], input.size(), stdout);
        }}\n"""
        pixels = np.random.default_rng(place).integers(0, 256, (20, 24, channels), np.uint8)
        images = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
        given += pixels.tobytes()
        expected += (images if dtype == "uint8" else normalized(images, known.for_channels(channels))).tobytes()
    (tmp_path / "main.cpp").write_text(f"{program}int main() {{\n{calls}}}\n")
    call = [str(COMPILER), "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "main.cpp", "-o", "main"]
    subprocess.run(call, cwd=tmp_path, check=True)
    done = subprocess.run([str(tmp_path / "main")], input=given, capture_output=True, check=True)
    assert done.stdout == expected


def test_what_is_no_image_has_no_snippets(product: Product) -> None:
    tokens = replace(product.inputs[0], shape=(0, 12), dtype="int64")
    other = replace(product, inputs=(tokens,), metadata=replace(product.metadata, golden=None))
    assert [name for name, _ in preprocessing_files(other)] == ["preprocessing.json"]
    assert preprocessing_of(other)["inputs"] == [{"name": tokens.name, "dtype": "int64", "shape": ["N", 12]}]
