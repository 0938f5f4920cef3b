"""The forms in which a file can be written; readable without importing torch."""

from __future__ import annotations

ORT = "ort"
"""The target whose files all others are compared with: ONNX Runtime."""
WEIGHTS = ("int8", "packed")
INPUTS = ("float32", "uint8")
TAILS = ("separate", "inside", "none")
"""Where a float tail that decodes goes: a file of its own, the file itself, nowhere."""
DECODE_SUFFIX = ".decode.onnx"
"""Ends the name of the file that decodes what NAME.onnx gives."""

SIZE_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
"""What heights and widths may have to be multiples of in files that leave them open: strides are powers of two."""
OPSETS = tuple(range(13, 22))
"""ONNX operator sets, the last of them where nothing is said."""
