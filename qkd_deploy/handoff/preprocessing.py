"""How an image becomes the input of a file: as data, and as a few lines in the languages of applications."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from qkd_deploy.data.images.placement import BORDER
from qkd_deploy.errors import printable
from qkd_deploy.handoff.product import Product
from qkd_deploy.handoff.templates import rendered

_COLOURS = {1: "grey", 3: "RGB"}
_SNIPPETS = ("preprocess.py", "preprocess.cpp", "Preprocess.kt", "Preprocess.swift")


def preprocessing_of(product: Product) -> dict[str, Any]:
    """Describe the inputs of a file as plain data."""
    ends = [{"name": end.name, "dtype": end.dtype, "shape": product.sizes(end)} for end in product.inputs]
    description: dict[str, Any] = {"model": product.name, "inputs": ends}
    if not takes_images(product):
        return description
    channels, height, width = product.shape
    description |= {"layout": "NCHW", "channels": _COLOURS[channels], "height": height, "width": width}
    if channels == 1:
        description["grey"] = "(19595 red + 38470 green + 7471 blue + 32768) >> 16"
    known = dict(product.metadata.preprocessing or {})
    fit, crop = known.get("fit") or "crop", known.get("crop_pct") or 0.0
    description |= {"fit": fit, "interpolation": f"{known.get('interpolation') or 'bilinear'}, with antialiasing"}
    if fit == "letterbox":
        description["border"] = BORDER
    if fit == "crop":
        description["crop_pct"] = crop or None
    description["geometry"] = _geometry(fit, crop, height, width)
    if "input_range" in known:
        description["grey_of_16_bits_that_becomes_255"] = known["input_range"]
    description |= {"transparent": "on white", "orientation": "upright, as the EXIF entry says"}
    description["value"] = "(pixel / divisor - mean) / std, in float32"
    description["normalization"] = _normalization(product, channels)
    if product.inputs[0].dtype == "uint8":
        description |= {"value": "the pixel itself, 0 to 255", "normalization": None}
    return description


def preprocessing_files(product: Product) -> Iterator[tuple[str, bytes]]:
    """The description and, for images, the snippets, by their names in a bundle."""
    description = preprocessing_of(product)
    yield "preprocessing.json", (json.dumps(description, indent=2) + "\n").encode()
    if not takes_images(product):
        return
    channels, height, width = product.shape
    known = dict(product.metadata.preprocessing or {})
    crop = known.get("crop_pct") or 0.0
    words = dict(
        fit=description["fit"],
        geometry=description["geometry"],
        interpolation=known.get("interpolation") or "bilinear",
        crop_pct=crop,
        short=math.floor(min(height, width) / crop) if crop else 0,
        border=BORDER,
        model=printable(product.name, keep=""),
        dtype=product.inputs[0].dtype,
        channels=channels,
        height=height,
        width=width,
        **_normalization(product, channels),
    )
    for name in _SNIPPETS:
        yield f"snippets/{name}", rendered(f"{name}.jinja", **words).encode()


def takes_images(product: Product) -> bool:
    """Whether there is one input, which are images in grey or in colours."""
    pixels = product.metadata.input == "uint8" or product.inputs[0].dtype == "float32"
    return len(product.inputs) == 1 and pixels and len(product.shape) == 3 and product.shape[0] in _COLOURS


def _normalization(product: Product, channels: int) -> dict[str, Any]:
    known = product.metadata.pixels.for_channels(channels)
    return {"mean": list(known.mean), "std": list(known.std), "divisor": float(known.divisor)}


def _geometry(fit: str, crop: float, height: int, width: int) -> str:
    if fit == "letterbox":
        return f"resized to fit into {width} x {height}, in the middle of a border of grey {BORDER}"
    if fit == "stretch":
        return f"resized to {width} x {height}, whatever its proportions are"
    if crop:
        short = math.floor(min(height, width) / crop)
        return f"resized to a short side of {short}, of which the middle {width} x {height} are cut out"
    return f"the largest box of the proportions {width} : {height} in its middle, resized to {width} x {height}"
