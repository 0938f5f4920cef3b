"""Look up quantizers by the names that users give: a new one is a file beside this one and a row here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from qkd_deploy.quantizers.base import Quantizer
from qkd_deploy.quantizers.dorefa import DoReFaActivation, DoReFaWeight
from qkd_deploy.quantizers.ewgs import EwgsActivation, EwgsQuantizer
from qkd_deploy.quantizers.lsq import LsqQuantizer
from qkd_deploy.quantizers.pact import PactActivation
from qkd_deploy.quantizers.qil import QilActivation, QilWeight
from qkd_deploy.quantizers.step import StepQuantizer


@dataclass(frozen=True)
class Kind:
    """A published method: the quantizers of weights and of activations.

    Each is built from a ``TensorSpec``, those of weights also from the number of output channels that have a scale of
    their own, or None.
    """

    weight: type[Quantizer]
    activation: type[Quantizer]


QUANTIZERS: Mapping[str, Kind] = MappingProxyType(
    {
        "interval": Kind(StepQuantizer, StepQuantizer),
        "lsq": Kind(LsqQuantizer, LsqQuantizer),
        "pact": Kind(DoReFaWeight, PactActivation),
        "dorefa": Kind(DoReFaWeight, DoReFaActivation),
        "ewgs": Kind(EwgsQuantizer, EwgsActivation),
        "qil": Kind(QilWeight, QilActivation),
    }
)
