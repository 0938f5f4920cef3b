"""ONNX Runtime's own post-training quantization, in the forms that a user would try for accuracy."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

FORMS = [
    (method, reduce_range)
    for method in (CalibrationMethod.MinMax, CalibrationMethod.Percentile, CalibrationMethod.Entropy)
    for reduce_range in (False, True)
]
_HISTOGRAM_IMAGES = 100
"""Histograms need all activations of all images in memory at once."""


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Feeds images one by one, and those of a range, for calibration in parts."""

    def __init__(self, images: npt.NDArray[np.float32]) -> None:
        self._images = images
        self.set_range(0, len(images))

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Feed only the images from one index to another."""
        self._feeds: Iterator[dict[str, Any]] = ({"x": image[None]} for image in self._images[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        """The next feed, or None at the end."""
        return next(self._feeds, None)


def preprocessed(fp32: Path, folder: Path) -> Path:
    """Write the float file as ``quantize_static`` wants it into ``folder``."""
    logging.getLogger().setLevel(logging.ERROR)
    path = folder / "preprocessed.onnx"
    quant_pre_process(str(fp32), str(path))
    return path


def quantize_per_channel(prepared: Path, path: Path, images: npt.NDArray[np.float32], **options: Any) -> None:
    """Run ``quantize_static`` on a preprocessed file: QDQ, uint8 activations, int8 weights per channel."""
    quantize_static(
        str(prepared),
        str(path),
        Reader(images),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        **options,
    )


def static_files(fp32: Path, images: npt.NDArray[np.float32], folder: Path) -> Iterator[tuple[str, Path]]:
    """Quantize a float file in every form: QDQ, uint8 activations, int8 weights per channel.

    Yields:
        the name of the form and its file.
    """
    prepared = preprocessed(fp32, folder)
    for method, reduce_range in FORMS:
        strided = method is CalibrationMethod.MinMax
        used = images if strided else images[:: max(1, len(images) // _HISTOGRAM_IMAGES)]
        path = folder / "static.onnx"
        quantize_per_channel(
            prepared,
            path,
            used,
            reduce_range=reduce_range,
            calibrate_method=method,
            extra_options={"CalibStridedMinMax": math.gcd(len(used), 10)} if strided else {},
        )
        yield f"{method.name.lower()}{', reduce_range' if reduce_range else ''}, {len(used)} images", path
