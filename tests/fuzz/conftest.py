"""Says at the end how many files were tried, and how they ended."""

from __future__ import annotations

from typing import Any

from damage import ENDS


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for (kind, end), count in sorted(ENDS.items()):
        terminalreporter.write_line(f"{count:7,} x {kind}: {end}")
    if ENDS:
        terminalreporter.write_line(f"{sum(ENDS.values()):7,} files in all")
