"""Write the tables of options into the page of commands: ``python docs/commands_page.py`` (see commands.md)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from qkd_deploy.cli.main import COMMANDS
from qkd_deploy.cli.options import GroupedCommand, Option
from qkd_deploy.cli.values import Choice

_MORE = {
    "data": "data.md",
    "networks": "own_model.md",
    "bits": "placement.md",
    "method": "training.md",
    "optimisation": "training.md#optimisation",
    "with --calibrate": "calibration.md",
    "with --sensitivity": "inspect.md",
}


def with_tables(page: str) -> str:
    """The page with the table of each command between ``<!-- options: NAME -->`` and ``<!-- end of options -->``."""
    for name in COMMANDS:
        command = import_module(f"qkd_deploy.cli.{name}").command
        assert isinstance(command, GroupedCommand)
        begin, end = f"<!-- options: {name} -->\n", "<!-- end of options -->"
        head, found, rest = page.partition(begin)
        if not found or end not in rest:
            raise ValueError(f"the page has no place for the options of {name}; write {begin.strip()} and {end}")
        page = f"{head}{begin}{_table(command)}{end}{rest.partition(end)[2]}"
    return page


def _table(command: GroupedCommand) -> str:
    return "\n".join(["| option | meaning | default |", "|---|---|---|", *_rows(command), ""])


def _rows(command: GroupedCommand) -> Iterator[str]:
    groups = command.groups()
    for group, options in groups.items():
        if len(groups) > 1:
            more = f" ([more]({_MORE[group]}))" if group in _MORE else ""
            yield f"| **{group}**{more} | | |"
        for option in options:
            names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
            yield f"| {names} | {_meaning(option)} | {option.usual} |"


def _meaning(option: Option) -> str:
    text = option.text.replace("|", "\\|")
    choices = [f"`{word}`" for word in option.type.choices] if isinstance(option.type, Choice) else []
    unsaid = [word for word in choices if word not in text]
    return f"{text} One of {', '.join(choices)}." if unsaid and len(choices) > 1 else text


if __name__ == "__main__":
    _page = Path(__file__).with_name("commands.md")
    _page.write_text(with_tables(_page.read_text(encoding="utf-8")), encoding="utf-8")
