"""Change one fact of one row of the contract at a time, and see that a test of the rows' own file notices.

    python benchmarks/row_mutations.py

Every facet of every row is changed: words and numbers to others, flags to their opposite, functions to ones that are
subtly wrong, spellings left out. The tests of ``tests/graph/ops/test_rows.py`` run in this process after each change.
The exit status is 1 where a change goes unnoticed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "graph" / "ops"))

import test_rows

from qkd_deploy.graph.contract import evaluation, signs, slice_rules
from qkd_deploy.graph.contract.operator import Operands, Operator, Tail, signed
from qkd_deploy.graph.ops import OPERATORS, TORCH_OPS

FLAGS = test_rows.FLAGS
SIGNS = (signed, signs.nonnegative, signs.as_operands, signs.sum_of_operands)


def changes(row: Operator) -> Iterator[tuple[str, dict[str, Any]]]:
    """Describe every change of a row, and give the facets that it sets."""
    yield "another kernel", {"kernel": f"{row.kernel}X"}
    for operands in Operands:
        if operands is not row.operands:
            yield f"operands {operands.name}", {"operands": operands}
    yield "own_scale", {"own_scale": not row.own_scale}
    for flag in FLAGS:
        yield flag, {flag: not getattr(row, flag)}
    for tail in Tail:
        if tail is not row.tail:
            yield f"tail {tail.name}", {"tail": tail}
    yield "step", {"step": 2.0**-6 if row.step is None else None}
    for rule in SIGNS:
        yield f"sign {rule.__name__}", {"sign": rule}
    yield "slices", {"slices": slice_rules.elements if row.slices is None else None}
    yield "portable_scale", {"portable_scale": _first if row.portable_scale is None else None}
    yield "lower_bound", {"lower_bound": _zero if row.lower_bound is None else None}
    yield "factor", {"factor": 0 if row.factor is None else None}
    yield "scale_factor", {"scale_factor": _zero if row.scale_factor is None else None}
    yield "in_float", {"in_float": "" if row.in_float else "a reason"}
    yield "floats off by a hair", {"floats": _off(row.floats)}
    yield "integers in float", {"integers": evaluation.in_float if row.integers is not evaluation.in_float else _codes}
    if row.relabelling is not None:
        yield "relabelling", {"relabelling": None}
    for key in row.torch:
        yield f"without {key}", {"torch": tuple(other for other in row.torch if other != key)}


def _first(*arguments: Any) -> float:
    return float(arguments[-1].scale)


def _zero(*arguments: Any) -> float:
    return 0.0


def _codes(operator: Any, frozen: Any, node: Any, args: Any, kwargs: Any) -> Any:
    return args[0]


def _off(floats: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        made = floats(*arguments)
        return made * 1.07 - 0.11 if isinstance(made, torch.Tensor) else made + 1

    return run


def noticed(kind: str) -> bool:
    """Run the tests that concern a kind; True where one fails."""
    try:
        for test in _tests(kind):
            test()
    except BaseException:  # noqa: BLE001  # pytest's own exceptions are no Exceptions
        return True
    return False


def _tests(kind: str) -> Iterator[Callable[[], None]]:
    for function in (test_rows.test_facts, test_rows.test_floats_are_those_of_pytorch):
        yield lambda function=function: function(kind)
    if kind in test_rows.CALLS:
        for function in (test_rows.test_signs_hold_on_values, test_rows.test_signs_are_as_narrow_as_they_can_be):
            yield lambda function=function: function(kind)
        sliced = kind not in test_rows.NO_SLICES
        of_slices = test_rows.test_slicing_operands_is_slicing_results if sliced else None
        yield lambda: (of_slices or test_rows.test_what_mixes_positions_is_not_sliced)(kind)
        if kind not in test_rows.OTHER_CODES:
            yield lambda: test_rows.test_codes_are_those_of_the_floats(kind)
    if kind in ("constant", "batch_norm", "float_op"):
        yield lambda: test_rows.test_what_stays_in_float_has_no_codes(kind)
    yield from _of_single_kinds(kind)
    yield test_rows.test_spellings_lead_to_their_rows
    yield test_rows.test_special_facets


def _of_single_kinds(kind: str) -> Iterator[Callable[[], None]]:
    if kind in ("input", "constant", "scalar"):
        yield lambda: test_rows.test_what_reads_no_tensors_has_no_rule(kind)
    if kind in ("conv", "linear"):
        yield lambda: test_rows.test_layers_compute_with_their_own_constants(kind)
    functions = {"tanh": torch.tanh, "hard_sigmoid": torch.nn.functional.hardsigmoid}
    if kind in functions:
        yield lambda: test_rows.test_functions_that_are_read_off_codes(kind, functions[kind])
    if kind == "mul":
        yield lambda: test_rows.test_a_tensor_times_its_own_gate_is_never_far_below_zero("sigmoid")
    if kind == "float_op":
        elu = torch.nn.functional.elu
        yield lambda: test_rows.test_functions_that_stay_in_float_have_their_own_signs(elu, test_rows.Sign.SIGNED)


def main() -> int:
    """Print what went unnoticed, and the counts."""
    tried, same, unnoticed, refused = 0, 0, [], 0
    for kind, row in list(OPERATORS.items()):
        assert not noticed(kind), kind
        for name, facets in changes(row):
            if all(getattr(row, facet) == value for facet, value in facets.items()):
                same += 1
                continue
            tried += 1
            try:
                changed = replace(row, **facets)
            except TypeError:
                refused += 1  # rows that contradict themselves are errors at import
                continue
            OPERATORS[kind] = changed
            for key in set(row.torch) - set(changed.torch):
                TORCH_OPS.pop(key, None)
            TORCH_OPS.update(dict.fromkeys(changed.torch, changed))
            if not noticed(kind):
                unnoticed.append(f"{kind}: {name}")
            OPERATORS[kind] = row
            TORCH_OPS.update(dict.fromkeys(row.torch, row))
    for change in unnoticed:
        print(f"UNNOTICED {change}")
    seen = tried - refused - len(unnoticed)
    print(f"{tried} changes: {refused} refused at import, {seen} noticed by tests, {len(unnoticed)} unnoticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
