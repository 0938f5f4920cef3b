"""The arguments of ``masks:PATH``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from qkd_deploy.data.images.decode import View
from qkd_deploy.data.sets.assemble import Options
from qkd_deploy.errors import UserError, hint_at

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


@dataclass(frozen=True)
class MaskArguments:
    """What the user says of images and masks.

    Attributes:
        ignore: numbers of masks, or names of classes, that count nowhere, beside 255.
        scale: factor of height and width of the files' own size.
        size: height and width that images and masks are brought to, cut in the middle to these proportions; None keeps
            their own.
        names: a file with the classes, from the folder; "" looks for one.
        held_out: the part that is held out; "" takes val, valid, validation or test.
    """

    ignore: object = None
    scale: float = 1.0
    size: tuple[int, int] | None = None
    names: str = ""
    held_out: str = ""

    def applied(self, view: View) -> View:
        """Scale a view of the files' own size."""
        height, width = (max(1, round(self.scale * length)) for length in (view.height, view.width))
        return replace(view, height=height, width=width)


def mask_arguments(name: str, args: Mapping[str, Any], options: Options) -> MaskArguments:
    """Read the arguments.

    Raises:
        UserError: one that is unknown, or of a kind or value that cannot be, or two that say different sizes.
    """
    known = [field.name for field in fields(MaskArguments)]
    for key in args:
        if key not in known:
            raise UserError(f"{name} takes no argument '{key}'{hint_at(key, known)}; it takes {', '.join(known)}")
    for key in ("names", "held_out"):
        if not isinstance(args.get(key, ""), str):
            raise UserError(f"the argument {key} is {args[key]!r}; give a text")
    scale = args.get("scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale <= 1:
        raise UserError(f"the argument scale is {scale!r}; give a number above 0, at most 1, such as 0.5")
    size = _size(args["size"]) if "size" in args else None
    given = [
        what
        for what, is_given in (("scale", "scale" in args), ("size", size), ("image_size", options.image_size))
        if is_given
    ]
    if len(given) > 1:
        raise UserError(f"{name} is given the size of its images by {' and '.join(given)}; keep one of them")
    if options.image_size:
        size = (options.image_size, options.image_size)
    return MaskArguments(args.get("ignore"), float(scale), size, args.get("names", ""), args.get("held_out", ""))


def _size(wanted: object) -> tuple[int, int]:
    found = _SIZE.fullmatch(wanted) if isinstance(wanted, str) else None
    if found is None or not all(map(int, found.groups())):
        raise UserError(f"the argument size is {wanted!r}; give HEIGHTxWIDTH in pixels, such as 180x240")
    return int(found[1]), int(found[2])
