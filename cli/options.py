"""Options of the command line: made from declared settings, listed in groups, and read into what the API takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from qkd_deploy.cli.values import OVERRIDE, REPLACEMENT, Argument, Choice, Epochs, Names, Pair
from qkd_deploy.settings import Arguments, Declaration, Settings, declarations

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
_VALUES: dict[Any, Any] = {
    tuple[int, ...]: Epochs(),
    tuple[str, ...]: Names(),
    dict[str, str]: OVERRIDE,
    Mapping[str, str]: REPLACEMENT,
    Arguments: Argument(),
}
_PAIRS = (Pair, Argument)
_IMAGES = (
    "dataset",
    "task",
    "data_dir",
    "dataset_args",
    "image_size",
    "interpolation",
    "crop_pct",
    "fit",
    "input_range",
    "workers",
    "strict",
)
"""Settings of a data set that commands about files have."""


class Option(click.Option):
    """An option with the heading under which it is listed, and its default in words.

    Args:
        group: the heading.
        usual: what holds where the option is not given, by default ``default`` in words; empty where the help tells.
    """

    def __init__(self, *args: Any, group: str = "options", usual: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group, self.text = group, str(kwargs["help"])
        self.usual = in_words(kwargs.get("default")) if usual is None else usual
        self.help = self.text.replace("`", "") + (f" [default: {self.usual}]" if self.usual else "")


def option(*names: str, **form: Any) -> Callable[[Decorated], Decorated]:
    """Give a command an ``Option`` that no setting declares."""
    return click.option(*names, cls=Option, **form)


class GroupedCommand(click.Command):
    """A command whose help lists its options by group; of a long one, ``--help`` lists only the first.

    Args:
        first: names of the parameters that most people need; empty lists all of them.
    """

    def __init__(self, *args: Any, first: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.first = first
        if first:
            self.params.append(
                Option(
                    ["--help-all"],
                    is_flag=True,
                    is_eager=True,
                    expose_value=False,
                    callback=_show_all,
                    group="run",
                    help="Show all options by group and exit.",
                )
            )

    def groups(self) -> dict[str, list[Option]]:
        """The options by heading."""
        found: dict[str, list[Option]] = {}
        for parameter in self.params:
            if isinstance(parameter, Option):
                found.setdefault(parameter.group, []).append(parameter)
        return found

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first options and the names of all groups, or everything by group."""
        groups = self.groups()
        if self.first and not ctx.meta.get(_ALL):
            listed = {option.name: option for options in groups.values() for option in options}
            self._write(ctx, formatter, "First options", [listed[name] for name in self.first])
            formatter.write_paragraph()
            formatter.write_text(f"--help-all shows all options, by group: {', '.join(groups)}.")
            return
        for group, options in groups.items():
            self._write(ctx, formatter, group[0].upper() + group[1:], options)
        self._write(ctx, formatter, "Help", [self.get_help_option(ctx)])

    @staticmethod
    def _write(
        ctx: click.Context, formatter: click.HelpFormatter, title: str, options: Iterable[click.Option | None]
    ) -> None:
        records = [option.get_help_record(ctx) for option in options if option is not None]
        with formatter.section(title):
            formatter.write_dl([record for record in records if record is not None])


_ALL = "qkd_deploy.help_all"


def _show_all(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def options_of(
    settings: type[Settings],
    *,
    only: Sequence[str] = (),
    group: str = "",
    renamed: Mapping[str, str] | None = None,
    usual: Callable[[Declaration], str] | None = None,
) -> Callable[[Decorated], Decorated]:
    """Give a command one option for each declared setting; one that is not given is None, or () where it repeats.

    Args:
        settings: the class that declares them.
        only: names of those that become options; all where it is empty.
        group: the heading for all; each setting's own where it is empty.
        renamed: options that are not called like their setting.
        usual: a setting's default in words; ``in_words`` of the declared one if not given.
    """

    def decorate(command: Decorated) -> Decorated:
        for declared in reversed(declarations(settings)):
            if not only or declared.name in only:
                spelling = (renamed or {}).get(declared.name) or _spelling(declared)
                text = usual(declared) if usual else in_words(declared.default)
                option(
                    spelling,
                    declared.name,
                    **_form(declared, spelling),
                    default=None,
                    help=declared.help,
                    group=group or declared.group,
                    usual=text,
                )(command)
        return command

    return decorate


def image_options(settings: type[Settings]) -> Callable[[Decorated], Decorated]:
    """Give a command about a file the options of a data set, which it needs none of; ``settings`` declares them."""
    return options_of(
        settings, only=_IMAGES, usual=lambda declared: "" if declared.name == "dataset" else in_words(declared.default)
    )


def _spelling(declared: Declaration) -> str:
    """The option of a setting; one that is repeated gives one argument at a time."""
    option = f"--{declared.name.replace('_', '-')}".replace("-args", "-arg")
    return f"{option}/--no-{option[2:]}" if declared.type is bool else option


def _form(declared: Declaration, option: str) -> dict[str, Any]:
    if declared.type is bool:
        return {"is_flag": True} if "/" not in option else {"type": bool}
    if declared.choices:
        return {"type": Choice(declared.choices)}
    if declared.type is int and option != _spelling(declared):  # the setting's own complaint would use its other name
        return {"type": click.IntRange(int(declared.bounds["ge"]), int(declared.bounds["le"]))}
    if declared.repeated:
        return {"type": str, "multiple": True, "metavar": "PATTERN"}
    kind = _VALUES.get(declared.type, declared.type)
    return {"type": kind, "multiple": isinstance(kind, _PAIRS)}


def in_words(value: Any) -> str:
    """A default as one would write it; empty where it stands for nothing."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value not in (None, {}) else ""


def named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that were given, with repeated pairs as tables."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    return {name: dict(value) if _is_pairs(value) else value for name, value in given.items()}


def _is_pairs(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, tuple) for item in value)


def refuse_without(needed: str, advice: str, given: Mapping[str, Any]) -> None:
    """Refuse options that only make sense beside another.

    Args:
        needed: the option that is missing.
        advice: what to write.
        given: the settings that were named, of options of the running command.

    Raises:
        click.UsageError: one is given.
    """
    for parameter in click.get_current_context().command.params:
        if parameter.name in given:
            raise click.UsageError(f"{parameter.opts[0]} belongs to {needed}; give {advice} too")


def split_teacher(text: str, known: Iterable[str]) -> tuple[str, str | None]:
    """``resnet20``, ``resnet20:teacher.pt``, ``package.module:factory`` or ``package.module:factory:teacher.pt``.

    Returns:
        the network's name as for ``create_model``, and the file with its weights or None.
    """
    name, _, rest = text.partition(":")
    factory, _, weights = rest.partition(":")
    if name not in known and factory.isidentifier():
        return f"{name}:{factory}", weights or None
    return name, rest or None


def require_checkpoint_of(model: str | None, checkpoint: Path | None) -> None:
    """Refuse the name of a network without the checkpoint that holds its weights.

    Raises:
        click.UsageError: ``model`` is given, ``checkpoint`` is not.
    """
    if model is not None and checkpoint is None:
        raise click.UsageError("--model says which network --checkpoint holds; give --checkpoint too")
