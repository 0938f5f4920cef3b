"""The terminal and pipes that rich writes to, with text of files and paths shown as it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from qkd_deploy.errors import printable


class PlainTextConsole(Console):
    """A console on which text means nothing: control characters are seen, and brackets and colons are no markup.

    Colours and the movements of progress bars are rich's own: they are added to text behind this, or are marked.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the pieces of a renderable, with all text printable."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else Segment(printable(piece.text), piece.style)
