"""Entry point of ``qkd-deploy``: runs the command, and turns whatever breaks off into one line and an exit code."""

from __future__ import annotations

import contextlib
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from qkd_deploy import __version__
from qkd_deploy.cli.ending import Terminated, exit_code_of
from qkd_deploy.cli.printing import print_our_warnings
from qkd_deploy.errors import closest

# One line of help per command; the module qkd_deploy.cli.<name> defines it as `command` and is imported only to run it.
COMMANDS = {
    "train": "Train a quantized student, with or without a teacher.",
    "sweep": "Train, export and verify every combination of some settings.",
    "export": "Write a trained model as an integer ONNX file.",
    "verify": "Prove that an ONNX file computes what was trained.",
    "report": "Write all about a run into one HTML file.",
    "inspect": "Show the layers of a model: bits, scales, kernels, size.",
    "handoff": "Pack a model for the application team, with a check for the device.",
    "bench": "Measure latency, throughput, memory and size, also against fp32.",
}


class _LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"qkd_deploy.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            advice = closest(name, COMMANDS, otherwise=f"choose one of {', '.join(COMMANDS)}")
            raise click.UsageError(f"no command {name!r}; {advice}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a broken pipe, which click ends with 1 like a failed check, becomes like a full disk."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise OSError(f"nobody read the output to its end ({error.strerror})") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qkd-deploy", message="%(prog)s %(version)s")
def cli() -> None:
    """Train, export and verify integer models for edge CPUs."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line on ``args`` (default: those of the process) and return its exit code.

    0: success; 1: a check ran and failed; others as ``exit_code_of`` says, with one line on stderr.
    A command signals 1 by returning it or with ``ctx.exit(1)``.
    """
    with contextlib.suppress(ValueError):  # outside the main thread signals belong to somebody else
        signal.signal(signal.SIGTERM, _terminate)
    with contextlib.suppress(AttributeError, ValueError):  # what is no plain stream, or closed
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # for names that are no text
    try:
        with warnings.catch_warnings():
            print_our_warnings()
            typed = list(sys.argv[1:] if args is None else args)
            result = cli.main(typed, prog_name="qkd-deploy", standalone_mode=False, obj=typed)
    except BaseException as error:  # noqa: BLE001 - code of the user's raises what it likes
        return exit_code_of(error)
    return result if isinstance(result, int) else 0


def _terminate(number: int, frame: object) -> None:
    raise Terminated
