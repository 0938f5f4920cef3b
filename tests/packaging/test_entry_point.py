"""The frame of the command line: help, version, exit codes, one line per mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

import qkd_deploy
from qkd_deploy.cli import main as entry
from qkd_deploy.errors import UserError


def stub(monkeypatch: pytest.MonkeyPatch, command: click.Command) -> None:
    """Let ``command`` stand for every sub-command."""
    monkeypatch.setattr(entry._LazyGroup, "get_command", lambda *_: command)


def test_help_of_the_installed_script_lists_the_commands(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("qkd-deploy")
    result = subprocess.run([script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert result.stderr == ""
    for name, line in entry.COMMANDS.items():
        assert name in result.stdout
        assert line in " ".join(result.stdout.split())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["--version"]) == 0
    assert capsys.readouterr().out == f"qkd-deploy {qkd_deploy.__version__}\n"


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main([]) == 2
    assert "Commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "no command 'trian'; did you mean 'train'?"),
        (["zzz"], "no command 'zzz'; choose one of train, sweep, "),
        (["--vresion"], "No such option"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    assert entry.main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_user_error_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def command() -> None:
        raise UserError("the file is empty;\nname another")

    stub(monkeypatch, command)
    assert entry.main(["verify"]) == 2
    assert capsys.readouterr().err == "Error: the file is empty; name another\n"


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_exit_code_is_what_the_command_returns(
    monkeypatch: pytest.MonkeyPatch, returned: int | None, code: int
) -> None:
    @click.command()
    def command() -> int | None:
        return returned

    stub(monkeypatch, command)
    assert entry.main(["verify"]) == code


def test_exit_code_of_the_context_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    @click.pass_context
    def command(ctx: click.Context) -> None:
        ctx.exit(1)

    stub(monkeypatch, command)
    assert entry.main(["verify"]) == 1


def test_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def command() -> None:
        raise KeyboardInterrupt

    stub(monkeypatch, command)
    assert entry.main(["train"]) == 130
    assert capsys.readouterr().err.strip() == "Interrupted."
