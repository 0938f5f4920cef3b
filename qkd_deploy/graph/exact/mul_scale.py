"""An output scale for an integer multiplication on which all CPUs agree.

ONNX Runtime computes ``rint(f32(a*b) * r + z)``, with the zero point inside the rounding and with or without a fused
multiply-add; the ONNX definition dequantizes, multiplies and divides. As for additions (see :mod:`add_scale`), all
pairs of codes are tried, and the scale is moved by as few units in the last place as it takes until every form gives
the same code for every pair.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qkd_deploy.graph.exact.add_scale import CodeRange, fma, no_portable_scale, nudged

_MAX_RATIO = 1024.0
"""Product of the operands' scales over the output's. Far beyond, steps overflow int32 in ONNX Runtime's kernel."""

_Codes = npt.NDArray[np.int64]


def portable_mul_scale(a: CodeRange, b: CodeRange, out: CodeRange, name: str) -> float:
    """The float32 output scale nearest to ``out.scale`` on which all forms of ``a * b`` agree, for every pair of codes.

    Raises:
        UserError: no such scale nearby (not seen in practice).
    """
    for scale in nudged(max(out.scale, a.scale * b.scale / _MAX_RATIO)):
        if _forms_agree(a, b, CodeRange(scale, out.zero_point, out.lo, out.hi)):
            return scale
    raise no_portable_scale(name)


def _forms_agree(a: CodeRange, b: CodeRange, out: CodeRange) -> bool:
    codes_a, codes_b = _near_ties(a, b, out)
    forms = product_forms(codes_a, codes_b, a, b, out)
    return all(np.array_equal(form, forms[0]) for form in forms[1:])


def _near_ties(a: CodeRange, b: CodeRange, out: CodeRange) -> tuple[_Codes, _Codes]:
    """Pairs of centered codes whose product is so near to a tie that float32 rounding decides; others cannot differ."""
    codes_a, codes_b = np.arange(a.lo, a.hi + 1), np.arange(b.lo, b.hi + 1)
    exact = codes_a[:, None] * codes_b[None, :] * (a.scale * b.scale / out.scale)
    margin = 2.0**-20 * (np.abs(exact) + out.zero_point)
    near = np.abs(exact - np.floor(exact) - 0.5) <= margin
    near &= (exact > out.lo - 1) & (exact < out.hi + 1)
    rows, columns = np.nonzero(near)
    return codes_a[rows], codes_b[columns]


def product_forms(codes_a: _Codes, codes_b: _Codes, a: CodeRange, b: CodeRange, out: CodeRange) -> list[_Codes]:
    """Centered codes of pairs by the ONNX definition and by the runtime's formulas, without and with a fused one."""
    scale_a, scale_b, scale = np.float32(a.scale), np.float32(b.scale), np.float32(out.scale)
    zero = np.float32(out.zero_point)
    product, ratio = np.float32(codes_a * codes_b), scale_a * scale_b / scale
    real = (np.float32(codes_a) * scale_a) * (np.float32(codes_b) * scale_b)
    steps = [np.rint(real / scale), np.rint(product * ratio), np.rint(product * ratio + zero) - zero]
    steps.append(np.rint(fma(product, ratio, np.full_like(product, zero))) - zero)
    return [np.clip(form, out.lo, out.hi).astype(np.int64) for form in steps]
