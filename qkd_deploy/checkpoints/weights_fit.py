"""The fit of a file's weights to a network: names, shapes and types, with an account of what does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate
from pathlib import Path

from torch import Tensor

from qkd_deploy.errors import UserError

_COUNTER = "num_batches_tracked"
"""Newer batch norms keep it; files from other tools lack it."""


def common_prefix(weights: Iterable[str], wanted: Iterable[str], network_name: str, source: Path | str) -> str:
    """Find what stands before the network's names in the file: the prefix that most of them follow; often nothing."""
    names = {name for name in wanted if not name.endswith(_COUNTER)}
    counts: Counter[str] = Counter()
    for name in weights:
        counts.update(prefix for prefix in _prefixes(name) if name.removeprefix(prefix) in names)
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    if len(best) > 1 and most == len(names) and "" not in best:
        networks = ", ".join(f"{prefix}*" for prefix in best[:3])
        raise UserError(f"{source} holds several networks that fit {network_name} ({networks}); save one of them alone")
    return best[0] if len(best) == 1 else ""


def own_wrapper(weights: Iterable[str], wanted: Iterable[str]) -> str:
    """Find what stands before all of the network's names and not in the file, as ``network.`` of a wrapper."""
    known, names = set(weights), list(wanted)
    for prefix in _prefixes(names[0]) if names else ():
        if all(name.startswith(prefix) for name in names) and any(name.removeprefix(prefix) in known for name in names):
            return prefix
    return ""


def renamed_head(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Find the linear layer that file and network call differently: its name in the file, and in the network.

    Returns:
        None where names agree, or where several linear layers could be meant.
    """
    theirs = _linear_layers({name: value for name, value in found.items() if name not in wanted})
    ours = _linear_layers({name: value for name, value in wanted.items() if name not in found})
    pairs = [(old, new) for old, form in theirs.items() for new, other in ours.items() if form == other]
    return pairs[0] if len(pairs) == 1 else None


def _linear_layers(entries: Mapping[str, Tensor]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Find linear layers: by module the shapes of their entries, without the number of outputs."""
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, value in entries.items():
        module, _, entry = name.rpartition(".")
        modules.setdefault(module, {})[entry] = tuple(value.shape[1:])
    return {module: form for module, form in modules.items() if module and len(form.get("weight", ())) == 1}


@dataclass(frozen=True)
class Fit:
    """The entries of a network beside those of a file.

    Attributes:
        wanted: the network's.
        found: the file's, under the network's names.
        outside: names in the file that do not begin with the prefix of the others.
        skip: patterns of what is left alone.
    """

    wanted: Mapping[str, Tensor]
    found: Mapping[str, Tensor]
    outside: list[str]
    skip: tuple[str, ...]

    def skips(self, name: str) -> bool:
        """Match the patterns with an entry and the modules that it lies in."""
        return any(_matches(name, pattern) for pattern in self.skip)

    def require_matches(self, source: Path | str) -> None:
        """Refuse a pattern that matches nothing: it would be a misspelt one."""
        names = [*self.wanted, *self.found]
        for pattern in self.skip:
            if not any(_matches(name, pattern) for name in names):
                raise UserError(
                    f"{pattern!r} matches no weights of the network or of {source}; "
                    f"write the path of a module, such as {names[-1].rpartition('.')[0] or names[-1]}"
                )

    def account(self) -> str:
        """Name what does not fit: how many, and the first of them; empty where everything does."""
        missing, unexpected = self._missing(), self._unexpected()
        if missing:
            unexpected += self.outside
        kinds = {"missing": missing, "unexpected": unexpected}
        kinds |= {"other shapes": self._shapes(), "other types": self._types()}
        return "; ".join(f"{kind} {len(names)}: {_some(names)}" for kind, names in kinds.items() if names)

    def advice(self, *, with_skip: bool) -> str:
        """Say what to do about it."""
        differing = [text.split()[0].rpartition(".")[0] for text in self._shapes()]
        modules = list(dict.fromkeys([*differing, *self._missing_modules()]))
        mostly = len(self._common()) >= len(self._missing())
        if with_skip and mostly and "" not in modules and not (self._unexpected() or self._types()):
            return f"name the model it belongs to, or let {_some(modules)} start at random with init_skip (--init-skip)"
        return "name the model it belongs to"

    def report(
        self,
        source: Path | str,
        prefix: str,
        wrapper: str,
        head: tuple[str, str] | None,
        values: Mapping[str, Tensor],
    ) -> str:
        """Sum up in one line what was done."""
        types = {str(self.found[name].dtype).removeprefix("torch.") for name in values}
        types -= {str(value.dtype).removeprefix("torch.") for value in values.values()}
        kept = [name for name in self.wanted if name not in values and not name.endswith(_COUNTER)]
        ignored = [name for name in self.found if name not in values] + self.outside
        notes = [
            f"{len(values)} tensors from {source}",
            f"without the prefix {prefix!r}" if prefix else "",
            f"with the prefix {wrapper!r}" if wrapper else "",
            f"{head[0]} as {head[1]}" if head else "",
            f"converted from {', '.join(sorted(types))}" if types else "",
            f"{len(ignored)} ignored ({_some(ignored)})" if ignored else "",
            f"{len(kept)} left at random ({_some(kept)})" if kept else "",
        ]
        return ", ".join(note for note in notes if note)

    def _missing(self) -> list[str]:
        absent = (name for name in self.wanted if name not in self.found and not name.endswith(_COUNTER))
        return [name for name in absent if not self.skips(name)]

    def _missing_modules(self) -> list[str]:
        """Name the largest modules of which the file has nothing, and the modules of other missing entries."""
        absent = set(self._missing())
        there = [name for name in self.wanted if name not in absent and not name.endswith(_COUNTER)]
        modules = []
        for name in self._missing():
            paths = [path.removesuffix(".") for path in _prefixes(name)][1:]
            wholly = (path for path in paths if not any(other.startswith(path + ".") for other in there))
            modules.append(next(wholly, paths[-1] if paths else ""))
        return list(dict.fromkeys(modules))

    def _unexpected(self) -> list[str]:
        return [name for name in self.found if name not in self.wanted and not self.skips(name)]

    def _common(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Pair the entries of network and file, by name."""
        names = [name for name in self.wanted if name in self.found and not self.skips(name)]
        return {name: (self.wanted[name], self.found[name]) for name in names}

    def _shapes(self) -> list[str]:
        return [
            f"{name} {list(found.shape)} instead of {list(wanted.shape)}"
            for name, (wanted, found) in self._common().items()
            if found.shape != wanted.shape
        ]

    def _types(self) -> list[str]:
        """Name integers where floats are wanted: codes of a quantized network, which mean nothing without scales."""
        return [
            f"{name} {str(found.dtype).removeprefix('torch.')}"
            for name, (wanted, found) in self._common().items()
            if wanted.is_floating_point() and not found.is_floating_point()
        ]


def _prefixes(name: str) -> Iterable[str]:
    """List what an entry's name may begin with: nothing, its first module, ..."""
    return accumulate((part + "." for part in name.split(".")[:-1]), initial="")


def _matches(name: str, pattern: str) -> bool:
    paths = accumulate(name.split("."), lambda path, part: f"{path}.{part}")
    return any(fnmatchcase(path, pattern) for path in paths)


def _some(names: list[str]) -> str:
    """Write the first three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
