"""Types of the fields that records of a file have."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

EXACT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""How records are read: numbers are finite, nothing is converted, and no key is unknown."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A number above 0, such as a scale."""
Byte = Annotated[int, Field(ge=0, le=255)]
"""A code of uint8."""
Whole = Annotated[int, Field(ge=-(2**31), lt=2**31)]
"""A whole number, such as a class or a place."""
Bits = Annotated[int, Field(ge=1, le=32)]
"""The width of codes; 32 for float."""
Size = Annotated[int, Field(ge=1, lt=2**31)]
"""A dimension of an array."""
FileName = Annotated[str, Field(max_length=255, pattern=r"^[^/\\\x00-\x1f]*$")]
"""The name of a file in the same folder; "" for none."""
Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
"""A digest in hexadecimal digits; "" for none."""
