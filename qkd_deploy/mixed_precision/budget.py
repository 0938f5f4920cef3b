"""Read budgets such as ``size<=2MB``: the most that a model with bits of its own for each layer may cost."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qkd_deploy.errors import UserError

_PATTERN = re.compile(r"\s*([a-z]+)\s*<=\s*(\d+(?:\.\d+)?)\s*([A-Za-z%]*)\s*")
_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_COUNTS = {"": 1, "K": 10**3, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS = {"size": _BYTES, "bitops": _COUNTS}
_BITLESS = {"latency": "every kernel of ONNX Runtime takes 8-bit codes", "macs": "they count no bits"}
_FORM = "write size<=2MB, size<=60% or bitops<=1.5G"


@dataclass(frozen=True)
class Budget:
    """A limit on the cost of a model.

    Attributes:
        text: as the user wrote it.
        kind: "size" (bytes of the ONNX file with packed weights) or "bitops" (multiplications times the bits of both
            factors, for one sample).
        limit: the most that is allowed; where ``relative``, as a share of the cost at the widest bits.
        relative: it was given in percent.
    """

    text: str
    kind: str
    limit: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``size<=2MB`` and the like.

        Raises:
            UserError: it is no budget; says what would be one.
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise UserError(f"the budget {text!r} is not of the form KIND<=NUMBER; {_FORM}")
        kind, number, unit = match[1], float(match[2]), match[3]
        if kind in _BITLESS:
            raise UserError(f"the budget {text!r} does not depend on bits, because {_BITLESS[kind]}; {_FORM}")
        if kind not in _UNITS:
            raise UserError(f"the budget {text!r} limits an unknown {kind!r}; {_FORM}")
        if unit != "%" and unit not in _UNITS[kind]:
            raise UserError(f"the budget {text!r} has the unit {unit!r}; choose one of {_units(kind)}, %")
        factor = 0.01 if unit == "%" else _UNITS[kind][unit]
        if number <= 0:
            raise UserError(f"the budget {text!r} allows nothing; give a number above 0")
        return cls(text.strip(), kind, number * factor, unit == "%")

    def amount(self, widest: float) -> float:
        """Compute the limit in bytes or operations; ``widest`` is the cost at the widest bits."""
        return self.limit * widest if self.relative else self.limit

    def show(self, cost: float) -> str:
        """Put a cost into words."""
        return f"{cost:,.0f} bytes" if self.kind == "size" else f"{cost / 1e6:,.3f} M bit operations"


def _units(kind: str) -> str:
    return ", ".join(unit for unit in _UNITS[kind] if unit)
