"""Whatever breaks a command off is one line without control characters and an exit code that is not 0."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

QUICK = "--method qat --epochs 1 --pretrain-epochs 1 --evaluate-limit 20"
NET = "import torch\n\nclass Net(torch.nn.Module):\n    def __init__(self, num_classes, in_channels):\n"
NET += "        super().__init__()\n        self.fc = torch.nn.Linear(64, num_classes)\n\n    def forward(self, x):\n"
MODULES = {
    "exits_at_import.py": "import sys\nsys.exit(0)\n",
    "exits_when_called.py": "def net():\n    exit()\n\n\ndef data():\n    raise SystemExit\n",
    "exits_in_forward.py": f"{NET}        raise SystemExit(0)\n",
    "ends_input.py": f"{NET}        raise EOFError\n",
    "own_base.py": f"class Stop(BaseException):\n    pass\n\n\n{NET}        raise Stop('of\\x1b[2J its own\\nkind')\n",
    "odd.py": f"{NET}        raise LookupError('no \\x1b[31m such \\x9b key \\u202e')\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("endings")
    for name, text in MODULES.items():
        (made / name).write_text(text)
    return made


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("--model exits_at_import:net", "cannot import exits_at_import for 'exits_at_import:net' (SystemExit: 0)"),
        ("--model exits_when_called:net", "exits_when_called:net failed with SystemExit"),
        ("--dataset exits_when_called:data", "exits_when_called:data failed with SystemExit"),
        ("--model exits_in_forward:Net", "called exit(0); let it return"),
        ("--model ends_input:Net", "ends_input:Net cannot process images of shape [1, 8, 8]: EOFError"),
        ("--model own_base:Net", "Stop: of\\x1b[2J its own; this is a fault of qkd-deploy, or of code"),
        ("--model odd:Net", "no \\x1b[31m such \\x9b key \\u202e"),
    ],
)
def test_code_that_ends_the_program_or_raises_anything(folder: Path, warm_run: Any, named: str, says: str) -> None:
    done = warm_run(f"train {QUICK} {named}", folder)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"Error: [^\n]+\n", done.err), done.err
    assert says in done.err
    assert done.err[:-1].isprintable()
    assert not (folder / "runs").exists()


def test_a_traceback_is_there_for_whoever_asks(folder: Path, warm_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(sys.executable).with_name("qkd-deploy")
    command = [script, "train", *QUICK.split(), "--model", "own_base:Net"]
    environment = {**os.environ, "QKD_DEBUG": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" in done.stderr and "own_base.py" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: Stop: of")


@pytest.mark.parametrize("name", [b"a[/b].pt", b"red\x1b[31m.pt", b"no\xfftext.pt", "left\u202e.pt".encode()])
def test_any_path_can_be_named_in_an_error(folder: Path, name: bytes) -> None:
    script = Path(sys.executable).with_name("qkd-deploy")
    done = subprocess.run([script, "inspect", name], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 2
    line = done.stderr.decode("utf-8")
    assert line.startswith("Error: ") and line[:-1].isprintable() and "does not exist" in line


def test_what_nobody_reads_is_no_failed_check(trained: Path) -> None:
    script = Path(sys.executable).with_name("qkd-deploy")
    with subprocess.Popen(
        [script, "inspect", "--json", "model.onnx"], cwd=trained, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert process.returncode == 2
    assert re.fullmatch(r"Error: [^\n]*Broken pipe[^\n]*\n", errors), errors


def test_a_terminal_obeys_nothing_that_is_printed(tmp_path: Path) -> None:
    """Colours and bars are rich's; names in tables and lines are seen as they are."""
    text = "red\\x1b[31m [bold]:smile: up\\x1b[1A"
    lines = [
        "from rich.table import Table",
        "from rich.text import Text",
        "from qkd_deploy.console import PlainTextConsole",
        f"table = Table(title='{text}')",
        "table.add_column('c', overflow='fold')",
        f"table.add_row(Text('{text}', style='green'))",
        "console = PlainTextConsole(width=80)",
        "assert console.is_terminal",
        "console.print(table)",
        f"console.print('{text}')",
    ]
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    subprocess.run([sys.executable, "-c", "\n".join(lines)], stdout=its, env=environment, check=True)
    os.close(its)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "\x1b[32m" in shown  # the style
    assert "\x1b[31m" not in shown and "\x1b[1A" not in shown
    assert shown.count("red\\x1b[31m [bold]:smile: u") == 3
