"""Swin-Tiny and SegFormer-B0 at the sizes they are used at: what of them runs in integers, and whether it is exact.

    QKD_DEPLOY_TIMM=.conformance python tests/conformance/attention.py --json docs/results/attention.json

The conformance suite has them small; here they are whole, with random weights. The exit status is 1 where a code
differs, or less than 98 % of the multiplications are in integer kernels.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support")]

import timm_models  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from trial import row  # noqa: E402

from qkd_deploy.atomic import atomic_write  # noqa: E402
from qkd_deploy.provenance import provenance  # noqa: E402

WIDTHS = ("w8a8", "w4a8")
LEAST_MACS = 0.98
_PIXELS = 224


def networks() -> dict[str, Callable[[], nn.Module]]:
    """Factories by name, of networks in the sizes that their libraries have by default."""
    timm, transformers = (importlib.import_module(name) for name in ("timm", "transformers"))
    return {
        "timm: swin_tiny_patch4_window7_224": lambda: timm.create_model("swin_tiny_patch4_window7_224"),
        "transformers: SwinForImageClassification (tiny)": lambda: transformers.SwinForImageClassification(
            transformers.SwinConfig()
        ),
        "transformers: SegformerForSemanticSegmentation (B0)": lambda: transformers.SegformerForSemanticSegmentation(
            transformers.SegformerConfig(num_labels=150)
        ),
    }


def main() -> int:
    """Print a line for every network and width, and write them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the rows go, with their provenance")
    options = parser.parse_args()
    torch.set_num_threads(1)
    reason = timm_models.missing()
    if reason:
        print(reason)  # noqa: T201
        return 1
    rows, failed = [], 0
    for name, build in networks().items():
        for bits in WIDTHS:
            found = row(name, build, (3, _PIXELS, _PIXELS), bits) | {"pixels": _PIXELS}
            rows.append(found)
            passed = not found["differing"] and found["integer_macs"] >= LEAST_MACS
            failed += not passed
            print(  # noqa: T201
                f"{name} {bits}: {found['differing']} of {found['compared']:,} codes differ, "
                f"{found['integer_macs']:.2%} of the MACs in integers, in float: {', '.join(found['floats'])}: "
                f"{'ok' if passed else 'FAILED'}",
                flush=True,
            )
    if options.json is not None:
        source = provenance(f"python tests/conformance/attention.py {shlex.join(sys.argv[1:])}")
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps({"provenance": source, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
