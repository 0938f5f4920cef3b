"""What a state_dict of a prepared model says of its quantizers, without whose codes its scales mean nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from qkd_deploy.errors import UserError

Text = Annotated[str, Field(max_length=10_000)]
Code = Annotated[int, Field(ge=-(2**31), lt=2**31)]


@dataclass(frozen=True)
class QuantizerRecord:
    """The quantizers of a prepared model.

    Attributes:
        bits: of the network; a word for messages, ``grids`` decides.
        quantizer: the published method.
        normalization: what the network takes pixels as; "" where that is not known.
        replace: activation functions that became others.
        grids: by the name of a quantizer the least and the largest code, and the zero point.
    """

    bits: Text
    quantizer: Text
    normalization: Text
    replace: dict[Text, Text]
    grids: dict[Text, tuple[Code, Code, Code]]

    def as_tensor(self) -> Tensor:
        """Write the record as bytes: a uint8 tensor, so that a state_dict holds nothing but tensors."""
        return torch.tensor(list(_READER.dump_json(self)), dtype=torch.uint8)

    def difference_from(self, own: QuantizerRecord) -> str:
        """Say how the quantizers of a saved model differ from a model's own; "" where they do not."""
        saved, here = asdict(self), asdict(own)
        for name in ("quantizer", "normalization", "replace"):
            if saved[name] != here[name]:
                return f"{name} is {saved[name] or 'nothing'} there and {here[name] or 'nothing'} here"
        differing = [name for name in {**self.grids, **own.grids} if self.grids.get(name) != own.grids.get(name)]
        if not differing:
            return ""
        more = f", and {len(differing) - 1} more differ" if len(differing) > 1 else ""
        first = differing[0]
        return f"{first} has {_codes(self.grids, first)} there and {_codes(own.grids, first)} here{more}"


_READER: TypeAdapter[QuantizerRecord] = TypeAdapter(QuantizerRecord)


def read_record(stored: object) -> QuantizerRecord | None:
    """Read what ``as_tensor`` wrote; None of tensors that somebody calculated with, as averages of state_dicts do.

    Raises:
        UserError: it is something else, or damaged.
    """
    if isinstance(stored, Tensor) and stored.dtype != torch.uint8:
        return None
    try:
        if not isinstance(stored, Tensor) or stored.dim() != 1:
            raise ValueError
        return _READER.validate_json(bytes(stored.tolist()))
    except (ValidationError, ValueError) as error:
        raise UserError("the state_dict says of its quantizers what cannot be read; use another one") from error


def require_same_quantizers(saved: QuantizerRecord, own: QuantizerRecord) -> None:
    """Refuse a state_dict of other quantizers.

    Raises:
        UserError: names the first difference, and the ways out.
    """
    if difference := saved.difference_from(own):
        raise UserError(
            f"the state_dict is of a model prepared otherwise, at {saved.bits} (here {own.bits}): {difference}; "
            "prepare with the arguments of that model, or take its weights alone: model.network.load_state_dict("
            "{name[8:]: value for name, value in state.items() if name.startswith('network.')})"
        )


def _codes(grids: Mapping[str, tuple[int, int, int]], name: str) -> str:
    if name not in grids:
        return "no quantizer"
    lo, hi, zero_point = grids[name]
    return f"codes {lo}..{hi}" + (f" with zero point {zero_point}" if zero_point else "")
