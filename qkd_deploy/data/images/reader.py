"""Decode images of a source, in worker processes or in this one, with the same result."""

from __future__ import annotations

import atexit
import os
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from qkd_deploy.data.augment.geometry import ResizedCrop
from qkd_deploy.data.images.decode import Pixels, Unreadable, View
from qkd_deploy.errors import UserError

Item = tuple[int, ResizedCrop | None, tuple[float, ...]]
"""Number of an image in its source, and how it is cropped: the arguments of `View.of`."""
Decoded = tuple[Pixels, dict[int, str]]
"""Pixels [N, C, H, W], and why some could not be read, by their place among the N."""


@dataclass
class Plan:
    """A reading list: ``length`` lists of items, each made when it is due."""

    length: int
    items: Callable[[int], list[Item]]

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[Item]]:
        for number in range(self.length):
            yield self.items(number)


class Source(Protocol):
    """Encoded images, by number; a source is sent to worker processes."""

    def __len__(self) -> int:
        """Count the images."""

    def open(self, index: int) -> Image.Image:
        """Decode an image, or raise `Unreadable`."""

    def name_of(self, index: int) -> str:
        """Name an image in messages."""

    def identity_of(self, index: int) -> str:
        """Identify an image without decoding it."""


class Reader:
    """Read images of one source in one view.

    Worker processes are started with the first pass over the data and are kept for the following ones.

    Args:
        source: of the images.
        view: the form that they are brought to.
        workers: processes that decode; 0 decodes in this one. More than there are cores are not started.
        strict: an image that cannot be read is an error.

    Attributes:
        unreadable: why images could not be read so far, by number.
    """

    def __init__(self, source: Source, view: View, workers: int, strict: bool) -> None:
        self.source, self.view, self.strict = source, view, strict
        self.unreadable: dict[int, str] = {}
        self._workers = min(workers, _cores())
        self._decoding = _Decoding(source, view)
        self._plan = Plan(0, _nothing)
        self._kept: DataLoader[Decoded] | None = None
        self._busy = False

    def read(self, plan: Plan) -> Iterator[Decoded]:
        """Decode the lists of a plan, ahead of time where there are workers.

        Raises:
            UserError: an image cannot be read, and the reader is strict.
        """
        for number, (pixels, problems) in enumerate(self._decoded(plan)):
            for place, reason in problems.items():
                self._remember(plan.items(number)[place][0], reason)
            yield pixels, problems

    def close(self) -> None:
        """Stop the workers; reading starts others."""
        self._kept = None

    def read_one(self, item: Item) -> Pixels | None:
        """Decode one image in this process; None where it cannot be read.

        Raises:
            UserError: as `read`.
        """
        if item[0] in self.unreadable:
            return None
        pixels, problems = self._decoding.__getitems__([item])
        for reason in problems.values():
            self._remember(item[0], reason)
            return None
        return np.asarray(pixels[0])

    def _decoded(self, plan: Plan) -> Iterator[Decoded]:
        if not self._workers:
            return map(self._decoding.__getitems__, plan)
        # A second pass inside of a first one has workers of its own.
        return iter(self._loader(plan, keep=False)) if self._busy else self._with_kept_workers(plan)

    def _with_kept_workers(self, plan: Plan) -> Iterator[Decoded]:
        if self._kept is None:
            self._kept = self._loader(self._plan, keep=True)
            # Later, when the interpreter goes down, workers would be waited for in vain.
            atexit.register(_close, weakref.ref(self))
        self._busy = True
        try:
            self._plan.length, self._plan.items = plan.length, plan.items
            yield from self._kept
        finally:
            # A plan knows its split, which knows this reader: in a circle, workers would not be stopped in good order.
            self._plan.length, self._plan.items = 0, _nothing
            self._busy = False

    def _loader(self, plan: Plan, *, keep: bool) -> DataLoader[Decoded]:
        return DataLoader(
            self._decoding,
            batch_sampler=plan,
            num_workers=self._workers,
            collate_fn=_as_it_is,
            worker_init_fn=_ignore_interrupts,
            # The loader draws a number that nothing here uses; it must not come from torch's global generator.
            generator=torch.Generator(),
            persistent_workers=keep,
        )

    def _remember(self, index: int, reason: str) -> None:
        if self.strict:
            name = self.source.name_of(index)
            raise UserError(
                f"cannot read the image {name} ({reason}); "
                "remove or replace it, or leave out --strict (strict in Python)"
            )
        self.unreadable[index] = reason


class _Decoding(Dataset[Decoded]):
    """The work of a worker: open, convert and crop images."""

    def __init__(self, source: Source, view: View) -> None:
        self._source, self._view = source, view

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Decoded:
        return self.__getitems__([(index, None, ())])

    def __getitems__(self, items: Sequence[Item]) -> Decoded:
        """Decode a batch. Arrays, unlike tensors, need no shared memory, which containers are short of."""
        pixels = np.zeros((len(items), *self._view.shape), dtype=np.uint8)
        problems = {}
        for place, (index, crop, numbers) in enumerate(items):
            try:
                pixels[place] = self._view.of(self._source.open(index), crop, numbers)
            except Unreadable as error:
                problems[place] = str(error)
        return pixels, problems


def _close(reader: weakref.ref[Reader]) -> None:
    alive = reader()
    if alive is not None:
        alive.close()


def _nothing(_: int) -> list[Item]:
    return []


def _as_it_is(batch: Any) -> Any:
    return batch


def _ignore_interrupts(_: int) -> None:
    """Ctrl-C is for the main process, which ends its workers; torch has seen to SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _cores() -> int:
    with suppress(AttributeError):  # only some systems have it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
