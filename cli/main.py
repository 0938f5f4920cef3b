"""Entry point of ``qkd-deploy``: runs the command, and turns mistakes of the user into one line and exit code 2."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from qkd_deploy import __version__
from qkd_deploy.errors import QuantizationWarning, UserError, closest

# One line of help per command; the module qkd_deploy.cli.<name> defines it as `command` and is imported only to run it.
COMMANDS = {
    "train": "Train a quantized student, with or without a teacher.",
    "sweep": "Train, export and verify every combination of some settings.",
    "export": "Write a trained model as an integer ONNX file.",
    "verify": "Prove that an ONNX file computes what was trained.",
    "inspect": "Show the layers of a model: bits, scales, kernels, size.",
    "bench": "Measure latency, throughput, memory and size, also against fp32.",
}


class Terminated(BaseException):
    """SIGTERM, on its way to the end of the program: open files are closed and locks released, as for Ctrl-C."""


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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qkd-deploy", message="%(prog)s %(version)s")
def cli() -> None:
    """Train, export and verify integer models for edge CPUs."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line on ``args`` (default: those of the process) and return its exit code.

    0: success; 1: a check ran and failed; 2: bad usage or input, with one line on stderr; 130: interrupted by Ctrl-C;
    143: by SIGTERM.
    A command signals 1 by returning it or with ``ctx.exit(1)``.
    """
    with contextlib.suppress(ValueError):  # outside the main thread signals belong to somebody else
        signal.signal(signal.SIGTERM, _terminate)
    try:
        with warnings.catch_warnings():
            _print_our_warnings()
            result = cli.main(args, prog_name="qkd-deploy", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return _complain(error.format_message())
    except UserError as error:
        return _complain(str(error))
    except OSError as error:
        _discard_stdout()
        where = f"{error.filename}: " if error.filename else "cannot read or write: "
        return _complain(f"{where}{error.strerror or error}; check the path and the space left")
    except click.Abort:
        click.echo("Interrupted.", err=True)
        return 130
    except Terminated:
        click.echo("Terminated.", err=True)
        return 143
    return result if isinstance(result, int) else 0


def _print_our_warnings() -> None:
    """Let a warning of ours be a line on stderr, and all others what Python makes of them."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if issubclass(category, QuantizationWarning):
            click.echo(f"Warning: {' '.join(str(message).split())}", err=True)
        else:
            usual(message, category, *rest)

    warnings.simplefilter("always", QuantizationWarning)
    warnings.showwarning = show  # type: ignore[assignment]


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def _discard_stdout() -> None:
    """Let what could not be written go, or Python would try again at exit and report the same mistake itself."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str) -> int:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return 2
