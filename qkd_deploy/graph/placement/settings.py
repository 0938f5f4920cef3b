"""Where quantizers go and how wide they are, as far as the user decides it; readable without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator

from qkd_deploy.bits import FLOAT, FLOAT_WORD, BitWidths
from qkd_deploy.errors import UserError, require_kind
from qkd_deploy.graph.replacements import parse_replacements
from qkd_deploy.pixels.normalization import SCALE, ZERO_POINT, Normalization
from qkd_deploy.quantizers.settings import QUANTIZER_NAMES
from qkd_deploy.settings import BitsTable, OneOf, Patterns, Replacements, Settings


def _require_replacements(table: Mapping[str, str]) -> Mapping[str, str]:
    parse_replacements(table)
    return table


@dataclass(frozen=True, kw_only=True)
class Placement(Settings):
    """Where quantizers go, and between which functions."""

    group = "bits"

    placement: Annotated[
        str,
        OneOf("integer", "paper"),
        "Where tensors are quantized: `integer` for all that an integer kernel makes, `paper` only for "
        "inputs and weights of convolutions and linear layers.",
    ] = "integer"
    residual: Annotated[
        str,
        OneOf("wide", "shared"),
        "Residual sums: `wide` keeps them at 8 bits, `shared` at the bits of their readers.",
    ] = "wide"
    first_last_bits: Annotated[int, Field(ge=2, le=8), "Bits of the first and the last layer."] = 8
    weight_range: Annotated[
        str,
        OneOf("safe", "narrow", "full"),
        "Weight codes: `safe` is exact on every CPU (8-bit codes within 63, in depthwise convolutions 127), `narrow` "
        "is within 63 everywhere, `full` has all that fit.",
    ] = "safe"
    weight_scales: Annotated[
        str,
        OneOf("channel", "layer"),
        "Learned scales of weights: one per output `channel`, or one per `layer` as in the QKD paper.",
    ] = "channel"
    replace: Annotated[
        Replacements,
        AfterValidator(_require_replacements),
        "`[PATTERN:]OLD=NEW`: another activation function in the quantized network, such as `silu=relu6`, everywhere "
        "or in modules whose path matches; may be repeated, the last match wins. The teacher keeps its own.",
    ] = field(default_factory=dict)


def parse_overrides(table: Mapping[str, str | BitWidths]) -> dict[str, BitWidths]:
    """Read bits, or ``float``, by pattern of module paths.

    Raises:
        UserError: bits that do not exist.
    """
    require_kind(table, Mapping, "overrides", "give bits by pattern, such as {'layer4.*': 'w8a8', 'head': 'float'}")
    return {str(pattern): FLOAT if bits == FLOAT_WORD else BitWidths.parse(bits) for pattern, bits in table.items()}


def _normalization(value: str | Normalization | None) -> Normalization | None:
    return None if value is None else Normalization.parse(value)


@dataclass(frozen=True, kw_only=True)
class QuantizationSettings(Placement):
    """How a network is quantized: what ``prepare`` needs beside the network, and what a checkpoint records.

    Raises:
        UserError: a value out of range, or float activations for some layers only.
    """

    bits: Annotated[BitWidths, PlainValidator(BitWidths.parse), "Bits of all layers but the first and the last."]
    overrides: Annotated[
        Mapping[str, BitWidths],
        PlainValidator(parse_overrides),
        "Bits of layers by pattern of their module path, or `float` for modules that stay in float; the last match "
        "wins.",
    ] = field(default_factory=dict)
    quantizer: Annotated[str, OneOf(*QUANTIZER_NAMES), "The published method of all learned quantizers."] = "interval"
    input_quantization: Annotated[
        tuple[float, int] | None,
        Field(strict=False),
        "Scale and zero point of the input's 8-bit codes where they are known; learned otherwise.",
    ] = None

    normalization: Annotated[
        Normalization | None,
        PlainValidator(_normalization),
        "What the network takes pixels as; None where nothing is known of them, or the grid says it.",
    ] = None

    @property
    def integer(self) -> bool:
        """True where tensors are quantized for integer kernels."""
        return self.placement == "integer" and not self.bits.weights_only

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalization is not None and self.input_quantization not in (None, (SCALE, ZERO_POINT)):
            raise UserError("normalization says what pixels are, and so decides the input's codes; leave one out")
        widths = [bits for bits in self.overrides.values() if not bits.is_float]
        if any(bits.weights_only != self.bits.weights_only for bits in widths):
            raise UserError("float activations (a32) are for the whole network; give all bits a32 or none")


def _require_bits(text: str) -> str:
    BitWidths.parse(text)
    return text


def _require_table(table: dict[str, str]) -> dict[str, str]:
    parse_overrides(table)
    return table


@dataclass(frozen=True, kw_only=True)
class NetworkBits(Placement):
    """Bits as the user writes them, with where they apply."""

    bits: Annotated[str, AfterValidator(_require_bits), "Bits of weights and activations, such as `w4a4`."] = "w4a4"
    bits_for: Annotated[
        BitsTable,
        AfterValidator(_require_table),
        "`PATTERN=wXaY`: other bits for layers whose module path matches; may be repeated, the last match wins.",
    ] = field(default_factory=dict)
    float: Annotated[
        Patterns,
        "Modules that stay in float, with all inside them, by pattern of their path, such as `head` or `'stage4.*'`; "
        "may be repeated, wins over `bits_for`.",
    ] = ()

    @property
    def overrides(self) -> dict[str, BitWidths]:
        """What the patterns of both settings ask for, in the order in which the last match wins."""
        return parse_overrides({**self.bits_for, **dict.fromkeys(self.float, FLOAT)})

    def quantization(self, normalization: Normalization, quantizer: str = "interval") -> QuantizationSettings:
        """How a network for images is quantized.

        Args:
            normalization: what it takes pixels as; the input's 8-bit code is the raw pixel all the same.
            quantizer: a key of ``registry.QUANTIZERS``.
        """
        return QuantizationSettings(
            **{item.name: getattr(self, item.name) for item in fields(Placement)},
            bits=BitWidths.parse(self.bits),
            overrides=self.overrides,
            quantizer=quantizer,
            input_quantization=(SCALE, ZERO_POINT),
            normalization=normalization,
        )
