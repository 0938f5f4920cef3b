"""Count what is wrong in the labels of a data set, or stop at the first of it."""

from __future__ import annotations

from qkd_deploy.errors import UserError, printable

_SHOWN = 80


class Problems:
    """What had to be left out of a data set, or is worth a remark, in the order in which it was found.

    Args:
        name: of the data set.
        strict: the first that has to be left out is an error.
    """

    def __init__(self, name: str, strict: bool) -> None:
        self._name, self._strict = name, strict
        self._counts: dict[str, int] = {}
        self._firsts: dict[str, str] = {}

    def add(self, what: str, where: object, count: int = 1) -> None:
        """Leave something out.

        Args:
            what: is left out, in the plural: "boxes without width or height".
            where: the first of it is.
            count: how many there are; 0 changes nothing.

        Raises:
            UserError: problems are errors.
        """
        if count and self._strict:
            raise UserError(
                f"{self._name} has {what}, first {_brief(where)}; "
                "correct them, or leave out --strict (strict in Python)"
            )
        self.note(f"{what} are left out", where, count)

    def note(self, what: str, where: object, count: int = 1) -> None:
        """Remark on something that is no error: ``what`` with a verb."""
        if count:
            self._firsts.setdefault(what, _brief(where))
            self._counts[what] = self._counts.get(what, 0) + count

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for every kind of remark."""
        return tuple(f"{count} {what}, first {self._firsts[what]}" for what, count in self._counts.items())

    @property
    def first(self) -> str:
        """The first remark; "" without any."""
        return next(iter(self.notes), "")


def _brief(where: object) -> str:
    text = printable(" ".join(str(where).split()), keep="")
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."
