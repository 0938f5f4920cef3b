"""Bit widths of weights and activations, and the integer grids that they stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from qkd_deploy.errors import UserError, require_kind

FLOAT_BITS = 32
FLOAT_WORD = "float"
SCALE_FLOOR = 1e-8
"""Smallest scale: keeps ``v / s`` finite for any float32 activation that occurs in a network."""
_PATTERN = re.compile(r"w(\d+)a(\d+)")


@dataclass(frozen=True)
class BitWidths:
    """Bits of the weights and of the input activations of a layer; 32 activation bits mean float (weights only)."""

    weight: int
    activation: int

    @classmethod
    def parse(cls, text: str | BitWidths) -> BitWidths:
        """Read ``"w4a4"``: 2 to 8 bits each, or ``a32`` for float activations.

        Raises:
            UserError: anything else, with the nearest spelling that is allowed.
        """
        if isinstance(text, BitWidths):
            return text
        require_kind(text, str, "bits", "give a text such as 'w4a4'")
        match = _PATTERN.fullmatch(text.strip().lower())
        if match is None:
            digits = re.findall(r"\d+", text)
            guess = f"w{digits[0]}a{digits[-1]}" if digits else "w4a4"
            raise UserError(f"bits {text!r} are not of the form wXaY; did you mean {_nearest(guess)!r}?")
        weight, activation = int(match[1]), int(match[2])
        if not 2 <= weight <= 8 or not (2 <= activation <= 8 or activation == FLOAT_BITS):
            raise UserError(
                f"bits {text!r} are out of range: weights take 2 to 8 bits, activations 2 to 8 or 32 (float); "
                f"did you mean {_nearest(match[0])!r}?"
            )
        return cls(weight, activation)

    @property
    def weights_only(self) -> bool:
        """True where the activations stay in float."""
        return self.activation == FLOAT_BITS

    @property
    def is_float(self) -> bool:
        """True for ``FLOAT``: nothing is quantized."""
        return self.weight == FLOAT_BITS

    def __str__(self) -> str:
        return FLOAT_WORD if self.is_float else f"w{self.weight}a{self.activation}"


FLOAT = BitWidths(FLOAT_BITS, FLOAT_BITS)
"""What an override says of modules that stay in float."""


def keep_in_float(path: str) -> str:
    """Say how to keep the modules in float that a path or pattern names, from Python and from the command line."""
    return f"keep that module in float: overrides={{{path!r}: '{FLOAT_WORD}'}}, or --float {path} on the command line"


def _nearest(text: str) -> str:
    """Return the allowed spelling nearest to a ``wXaY`` text."""
    weight, activation = (int(digits) for digits in re.findall(r"\d+", text))
    near_activation = FLOAT_BITS if activation >= 24 else min(max(activation, 2), 8)
    return f"w{min(max(weight, 2), 8)}a{near_activation}"


def bits_for(path: str, overrides: Mapping[str, BitWidths]) -> BitWidths | None:
    """Find the override of the last pattern (shell style, ``layer4.*``) that matches a module path, or None.

    A pattern of bits is for the layers that it matches; one that keeps modules in float is for all inside them, too.
    """
    found = None
    for pattern, bits in overrides.items():
        if any(fnmatchcase(part, pattern) for part in (_with_parents(path) if bits.is_float else (path,))):
            found = bits
    return found


def _with_parents(path: str) -> list[str]:
    """Return ``a.b.c``, ``a.b`` and ``a``."""
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


@dataclass(frozen=True)
class TensorSpec:
    """The integer grid of a tensor, in centered codes: ``value = code * scale``, ``lo <= code <= hi``.

    ``zero_point`` is what is added to a code when it is stored as uint8 (activations) or int8 (weights, always 0).
    """

    bits: int
    signed: bool
    zero_point: int
    lo: int
    hi: int

    @classmethod
    def activation(cls, bits: int, *, signed: bool) -> TensorSpec:
        """Grid of activations, stored as uint8: zero point 0, or ``2^(bits-1)`` for signed tensors."""
        half = 2 ** (bits - 1)
        return cls(bits, True, half, -half, half - 1) if signed else cls(bits, False, 0, 0, 2 * half - 1)

    @classmethod
    def mostly_positive(cls, bits: int) -> TensorSpec:
        """Grid of a tensor that is never far below zero, as behind SiLU: one code in eight is for negative values."""
        below = max(1, 2**bits // 8)
        return cls(bits, True, below, -below, 2**bits - 1 - below)

    @classmethod
    def saturating(cls, bits: int) -> TensorSpec:
        """Grid of a tensor that is never negative, stored at the top of uint8: the kernel's saturation is the clip."""
        levels = 2**bits
        return cls(bits, False, 256 - levels, 0, levels - 1)

    @classmethod
    def weight(cls, bits: int, weight_range: str = "safe", *, depthwise: bool = False) -> TensorSpec:
        """Grid of weights, stored as int8.

        ``safe`` is symmetric, so that the sign of a batch norm's gamma can move onto the codes; at 8 bits it stays
        within +-63, because pairs of u8 x s8 products saturate in int16 on x86 CPUs without VNNI. The kernels of
        depthwise convolutions do not add pairs: their 8-bit codes reach +-127. ``narrow`` is +-63 there, too. ``full``
        uses ``-2^(bits-1)`` as well, and +-127 at 8 bits.
        """
        half = 2 ** (bits - 1)
        if weight_range == "full":
            return cls(bits, True, 0, -127 if bits == 8 else -half, half - 1)
        pairs = not (depthwise and weight_range == "safe")
        hi = 63 if bits == 8 and pairs else half - 1
        return cls(bits, True, 0, -hi, hi)

    @property
    def upscale(self) -> int:
        """The power of two that spreads weight codes over the int8 container (``|code| <= 64``).

        It divides the scale exactly and costs nothing at run time, and the int32 grid of the bias, whose scale is the
        product of both operands' scales, becomes that much finer.
        """
        return 1 << max(0, 7 - self.bits)
