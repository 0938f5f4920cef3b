"""Run commands of the command line as processes, which end when the sweep is interrupted or killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Lock

_PROGRAM = """
import sys
from qkd_deploy.cli.main import main
from qkd_deploy.sweep.orphan import end_with_parent
end_with_parent()
sys.exit(main())
"""
_CLI = (sys.executable, "-c", _PROGRAM)


class StepFailed(Exception):
    """A command that did not end as it should; the message says why, in one line."""


class Stopped(Exception):
    """The sweep was interrupted before or while the command ran."""


class Processes:
    """Run commands, from several threads at a time."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = Lock()

    def run(self, arguments: list[str], log: Path, *, answer: Path | None = None) -> None:
        """Run ``qkd-deploy ARGUMENTS`` and wait for it.

        Args:
            arguments: of the command line.
            log: the command's stderr is appended to it.
            answer: a file that the command writes also where it ends with 1, because a check failed. An old one is
                removed first: a program that broke down ends with 1 too.

        Raises:
            StepFailed: it ended with another code than 0, and without an answer.
            Stopped: ``stop`` was called.
        """
        if answer is not None:
            answer.unlink(missing_ok=True)
        with log.open("a", encoding="utf-8") as errors:
            errors.write(f"$ qkd-deploy {' '.join(arguments)}\n")
            errors.flush()
            start = errors.tell()
            process = self._start(arguments, errors.fileno())
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
        with self._lock:
            self._running.discard(process)
            if self._stopped:
                raise Stopped
        answered = process.returncode == 1 and answer is not None and answer.exists()
        if process.returncode != 0 and not answered:
            raise StepFailed(f"{arguments[0]}: {_reason(process.returncode, log, start)}")

    def _start(self, arguments: list[str], errors: int) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise Stopped
            process = subprocess.Popen(
                [*_CLI, *arguments],
                stdin=subprocess.PIPE,  # open as long as this process lives
                stdout=subprocess.DEVNULL,
                stderr=errors,
                # Ctrl-C on a terminal reaches all of a session: the processes are to hear of it once, from ``stop``.
                start_new_session=True,
            )
            self._running.add(process)
            return process

    def stop(self) -> None:
        """End all running commands as SIGTERM does, which leaves training resumable; start no others."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def _reason(code: int, log: Path, start: int) -> str:
    """Take the last line that the command wrote to stderr, or say how it ended where it wrote none."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    how = f"exit code {code}" if code >= 0 else f"signal {-code}"
    return f"{last.removeprefix('Error: ')} ({how})" if last else how
