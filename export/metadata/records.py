"""The records that an exported file describes itself with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict

from qkd_deploy.export.metadata.digests import Digests
from qkd_deploy.export.metadata.fields import EXACT, Bits, Byte, FileName, Positive, Sha256
from qkd_deploy.export.metadata.golden import Golden
from qkd_deploy.pixels.normalization import CENTERED, Normalization


@dataclass(frozen=True)
class TensorRecord:
    """One quantized activation: ``value`` is the ONNX value with its uint8 codes, ``lo`` and ``hi`` their range."""

    __pydantic_config__: ClassVar[ConfigDict] = EXACT

    name: str
    value: str
    module: str
    bits: Bits
    scale: Positive
    zero_point: Byte
    lo: Byte
    hi: Byte


@dataclass(frozen=True)
class LayerRecord:
    """One layer with weights; ``upscale`` is the factor between learned and stored weight integers."""

    __pydantic_config__: ClassVar[ConfigDict] = EXACT

    name: str
    module: str
    op: str
    weight_bits: Bits
    activation_bits: Bits
    upscale: Byte
    kernel: str


@dataclass(frozen=True)
class DecodeRecord:
    """What an integer file says of the tail that was cut off behind it.

    Attributes:
        file: the name of the file that holds it, which lies beside; "" where the tail was left out.
        sha256: of that file's content without its metadata; "" without a file.
        tail: the tensors that it computes.
    """

    __pydantic_config__: ClassVar[ConfigDict] = EXACT

    file: FileName
    sha256: Sha256
    tail: tuple[str, ...]


@dataclass(frozen=True)
class DecodesRecord:
    """The integer file that a decode file belongs to: its name, and the digest of all its bytes."""

    __pydantic_config__: ClassVar[ConfigDict] = EXACT

    file: FileName
    sha256: Sha256


@dataclass(frozen=True)
class DecodeMetadata:
    """Everything that ``export`` writes beside the graph of a decode file.

    Attributes:
        version: what wrote it.
        decodes: the integer file that it belongs to.
        tail: the tensors that it computes.
        golden: by output of the network, some of its values for the golden inputs of the integer file (``sampled``).
        requires_onnxruntime: the oldest version that was tried for what the file uses.
        digests: computed by ``write_decode_metadata``.
    """

    version: str
    decodes: DecodesRecord
    tail: tuple[str, ...]
    golden: tuple[np.ndarray, ...]
    requires_onnxruntime: str = ""
    digests: Digests | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Metadata:
    """Everything that ``export`` writes beside the graph. ``digests`` is computed by :func:`write_metadata`.

    ``tail`` names the tensors behind the last integer kernels that are computed in float.
    ``decode`` is about the tail that was cut off; None where the file gives the network's own outputs.
    ``size_multiple`` is what heights and widths have to be multiples of in a file that leaves them open; else None.
    ``requires_onnxruntime`` is the oldest version that was tried for what the file uses.
    """

    version: str
    bits: str
    placement: str
    weights: str = "int8"
    input: str = "float32"
    tensors: tuple[TensorRecord, ...] = ()
    layers: tuple[LayerRecord, ...] = ()
    golden: Golden | None = None
    normalization: Mapping[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    checkpoint_sha256: str | None = None
    accuracy: Mapping[str, Any] | None = None
    quantizer: str = ""
    replaced: Mapping[str, int] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] | None = None
    tail: tuple[str, ...] = ()
    decode: DecodeRecord | None = None
    size_multiple: int | None = None
    requires_onnxruntime: str = ""
    digests: Digests | None = field(default=None, compare=False)

    @property
    def open_sizes(self) -> tuple[int, ...]:
        """Height and width of the golden images, in a file that leaves them open; () in any other."""
        if self.size_multiple is None or self.golden is None:
            return ()
        return self.golden.recipes[0].shape[2:]

    @property
    def pixels(self) -> Normalization:
        """What a float input takes pixels as; ``(pixel - 128) / 64`` where the file does not say.

        Raises:
            UserError: the entry is damaged.
        """
        return CENTERED if self.normalization is None else Normalization.of_entry(self.normalization)

    def module_of(self, name: str) -> str:
        """The user's module that a node, constant or value belongs to, from the tables or else from the name itself."""
        known = {layer.name: layer.module for layer in self.layers}
        known |= {tensor.name: tensor.module for tensor in self.tensors}
        owner, slash, _ = name.rpartition("/")
        stem = owner if slash else name if name in known else name.rpartition(".")[0]
        if stem not in known and stem.rpartition(".")[0] in known:  # "conv1.weight/DequantizeLinear"
            stem = stem.rpartition(".")[0]
        return known.get(stem) or stem or name
