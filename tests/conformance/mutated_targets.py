"""Changed files of every target, with digests that fit: does ``verify`` catch them against their checkpoint?

    python tests/conformance/mutated_targets.py CHECKPOINT [--only litert] [--count 40] [--json FILE]

Each time one bit of the file changes, anywhere but in its record, whose digest is set anew: what a forger would do.
Bits that fill a format's alignment and say nothing (``Target.meaning`` is the same) are drawn again. A file is caught
where ``verify`` fails or refuses to read it. The exit status is 1 where one is not.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from qkd_deploy.atomic import atomic_write
from qkd_deploy.errors import UserError
from qkd_deploy.export.targets.registry import target_named, target_names
from qkd_deploy.export.targets.target import Target
from qkd_deploy.provenance import provenance
from qkd_deploy.workflows.targets import export_to_target, read_subject, verify_subject


def mutants(file: Path, count: int) -> Iterator[bytes]:
    """Contents with one bit changed and a digest that fits."""
    subject = read_subject(file)
    assert subject is not None
    record, content = subject.record, subject.content
    before, text, behind = content.partition(record.text.encode())
    chance = random.Random(0)  # places of bits are no secret
    blank = b"=" * len(text)  # offsets stay where they are
    same, found = subject.target.meaning(before + blank + behind), 0
    while found < count:
        part = chance.choices((0, 1), (len(before), len(behind)))[0]
        halves = [bytearray(before), bytearray(behind)]
        halves[part][chance.randrange(len(halves[part]))] ^= 1 << chance.randrange(8)
        if _says_the_same(subject.target, bytes(halves[0] + blank + halves[1]), same):
            continue
        found += 1
        changed = bytes(halves[0]) + text + bytes(halves[1])
        sealed = replace(record, content=record.digest(changed))
        yield changed.replace(text, sealed.text.encode())


def _says_the_same(target: Target, content: bytes, same: bytes) -> bool:
    try:
        return target.meaning(content) == same
    except Exception:  # noqa: BLE001  # offsets of a damaged file lead anywhere
        return False


def outcome(file: Path, checkpoint: Path) -> str:
    """By what a file is caught: "refused", the first level that fails, or "" where nothing is noticed."""
    try:
        subject = read_subject(file)
        if subject is None:
            return "refused"
        report = verify_subject(subject, checkpoint=checkpoint)
    except UserError:
        return "refused"
    return next((level.name for level in report.levels if level.status == "failed"), "")


def main() -> int:
    """Print a line for every target, and write them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--only", help="one target")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in [options.only] if options.only else target_names()[1:]:
            file = Path(folder) / f"m{target_named(name).suffix}"
            try:
                export_to_target(options.checkpoint, name, file)
            except UserError as error:  # qnn takes no activations of four bits
                print(f"{name}: refused, {error}", flush=True)  # noqa: T201
                continue
            found: Counter[str] = Counter()
            for content in mutants(file, options.count):
                file.write_bytes(content)
                found[outcome(file, options.checkpoint)] += 1
            rows[name] = dict(found)
            told = ", ".join(f"{number} by {level}" for level, number in found.items() if level)
            print(f"{name}: {options.count - found['']} of {options.count} caught: {told}", flush=True)  # noqa: T201
    if options.json is not None:
        table = {"provenance": provenance(f"python tests/conformance/mutated_targets.py {options.checkpoint}")}
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(table | {"targets": rows}, indent=1) + "\n", encoding="utf-8")
    return int(any("" in found for found in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
