"""Compiles the snippets of bundles and compares them, byte by byte, with the Python snippet on an image of noise.

    python benchmarks/handoff_snippets.py MODEL.ONNX [FOLDER]

C++ by ``g++``; Kotlin by ``kotlinc`` (``apt-get install kotlin``); Swift by Debian 13's compiler, where
``handoff_environments.py FOLDER --swift`` has unpacked it. What is not there is left out.
Snippets are those of grey and of colour images, normalised and as raw pixels, in 24 x 20 pixels.
"""

from __future__ import annotations

import argparse
import json
import runpy
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qkd_deploy.gate.onnx_file import read_exported
from qkd_deploy.handoff.preprocessing import preprocessing_files
from qkd_deploy.handoff.product import Product, product_of
from qkd_deploy.pixels.normalization import PRESETS

HEIGHT, WIDTH = 20, 24
KINDS = {
    f"{colours}, {dtype}": (channels, dtype)
    for colours, channels in (("grey", 1), ("colour", 3))
    for dtype in ("float32", "uint8")
}
SWIFT = "/usr/libexec/swift"

_CPP = """#include <cstdio>
#include "preprocess.cpp"
int main() {
    std::vector<std::uint8_t> pixels(BYTES);
    if (std::fread(pixels.data(), 1, pixels.size(), stdin) != pixels.size()) return 1;
    const auto input = preprocess(pixels.data());
    std::fwrite(input.data(), sizeof input[0], input.size(), stdout);
}
"""
_KOTLIN = """import java.nio.ByteBuffer
import java.nio.ByteOrder
fun main() {
    val bytes = System.`in`.readBytes()
    val pixels = IntArray(bytes.size / 4) { i ->
        val (r, g, b, a) = IntArray(4) { k -> bytes[4 * i + k].toInt() and 255 }
        (a shl 24) or (r shl 16) or (g shl 8) or b
    }
    val input = preprocess(pixels)
    val out = ByteBuffer.allocate(4 * input.size).order(ByteOrder.LITTLE_ENDIAN)
    for (value in input) PUT
    System.out.write(out.array(), 0, out.position())
    System.out.flush()
}
"""
_SWIFT = """import Foundation
let pixels = [UInt8](FileHandle.standardInput.readDataToEndOfFile())
preprocess(pixels).withUnsafeBytes { FileHandle.standardOutput.write(Data($0)) }
"""

Runs = Callable[[Path, np.ndarray, str], bytes]
"""From a folder with snippets, pixels [H, W, 4] and the type of values to what a snippet makes of them."""


def variant(product: Product, channels: int, dtype: Any) -> Product:
    """The same product, as if it took other images."""
    golden = product.metadata.golden
    assert golden is not None
    golden = replace(golden, recipes=(replace(golden.recipes[0], shape=(2, channels, HEIGHT, WIDTH)),))
    known = PRESETS["imagenet" if channels == 3 else "half"].as_entry()
    end = replace(product.inputs[0], shape=(0, channels, HEIGHT, WIDTH), dtype=dtype)
    return replace(
        product, metadata=replace(product.metadata, golden=golden, normalization=known, input=dtype), inputs=(end,)
    )


def python(folder: Path, pixels: np.ndarray, dtype: str) -> bytes:
    """What the Python snippet makes of the image as a file."""
    Image.fromarray(pixels[..., :3]).save(folder / "image.png")
    found: np.ndarray = runpy.run_path(str(folder / "preprocess.py"))["preprocess"](folder / "image.png")
    return found.tobytes()


def cpp(folder: Path, pixels: np.ndarray, dtype: str) -> bytes:
    """C++ takes bytes in the colours of the network."""
    mode = "L" if "grey" in (folder / "preprocess.cpp").read_text() else "RGB"
    given = np.asarray(Image.fromarray(pixels[..., :3]).convert(mode)).tobytes()
    (folder / "main.cpp").write_text(_CPP.replace("BYTES", str(len(given))))
    _run(["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "main.cpp", "-o", "main"], folder)
    return _run([str(folder / "main")], folder, given)


def kotlin(folder: Path, pixels: np.ndarray, dtype: str) -> bytes:
    """Kotlin takes whole numbers, as Android's bitmaps give them."""
    (folder / "main.kt").write_text(
        _KOTLIN.replace("PUT", "out.put(value)" if dtype == "uint8" else "out.putFloat(value)")
    )
    _run(["kotlinc", "Preprocess.kt", "main.kt", "-include-runtime", "-d", "main.jar"], folder)
    return _run(["java", "-jar", "main.jar"], folder, pixels.tobytes())


def swift_in(root: Path) -> Runs:
    """Swift takes RGBA; the compiler lives in a Debian of its own, which takes no rights of root."""

    def swift(folder: Path, pixels: np.ndarray, dtype: str) -> bytes:
        inner = root / "tmp/snippet"
        shutil.copytree(folder, inner, dirs_exist_ok=True)
        (inner / "main.swift").write_text(_SWIFT)
        (root / "proc").mkdir(exist_ok=True)
        within = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
        within += [f'mount --rbind /proc {root}/proc && exec chroot {root} "$@"', "sh", "/usr/bin/env"]
        within += [f"LD_LIBRARY_PATH={SWIFT}/lib/swift/linux"]
        files = [f"/tmp/snippet/{name}" for name in ("Preprocess.swift", "main.swift")]
        _run([*within, f"{SWIFT}/bin/swiftc", "-O", *files, "-o", "/tmp/snippet/main"], folder)
        return _run([*within, "/tmp/snippet/main"], folder, pixels.tobytes())

    return swift


def _run(call: list[str], folder: Path, given: bytes = b"") -> bytes:
    return subprocess.run(call, cwd=folder, input=given, stdout=subprocess.PIPE, check=True).stdout


def languages(folder: Path | None) -> Iterator[tuple[str, Runs]]:
    """Those whose compilers are there."""
    for name, compiler, runs in (("C++", "g++", cpp), ("Kotlin", "kotlinc", kotlin)):
        if shutil.which(compiler):
            yield name, runs
    if folder is not None and (folder / f"swift{SWIFT}/bin/swiftc").exists():
        yield "Swift", swift_in(folder / "swift")


def compared(model: Path, folder: Path | None) -> dict[str, Any]:
    """By language and kind of images: how many values were compared, and how many bytes differ."""
    product, pixels = (
        product_of(read_exported(model)),
        np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8),
    )
    found: dict[str, Any] = {}
    for kind, (channels, dtype) in KINDS.items():
        with tempfile.TemporaryDirectory() as temporary:
            where = Path(temporary)
            for name, content in preprocessing_files(variant(product, channels, dtype)):
                (where / Path(name).name).write_bytes(content)
            wanted = python(where, pixels, dtype)
            for language, runs in languages(folder):
                got = runs(where, pixels, dtype)
                differing = (
                    len(wanted) if len(got) != len(wanted) else sum(a != b for a, b in zip(got, wanted, strict=True))
                )
                values = len(wanted) // np.dtype(dtype).itemsize
                found.setdefault(language, {})[kind] = {"values": values, "bytes that differ": differing}
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an exported file that takes images")
    parser.add_argument("folder", type=Path, nargs="?")
    options = parser.parse_args()
    print(json.dumps(compared(options.model, options.folder and options.folder.resolve()), indent=1))
