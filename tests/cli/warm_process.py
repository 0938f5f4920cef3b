"""Runs command lines in forks of one process that has imported the heavy libraries: a real process each, started fast.

Reads one JSON object per line from stdin (args, cwd, and optionally the largest file that may be written, in bytes) and
answers each with one (code, out, err).
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import traceback
from importlib import import_module

from qkd_deploy.cli.main import main

# Everything that the commands import. No session, thread or accelerator must exist before a fork.
for _name in (
    "bench.benchmark",
    "data",
    "training.run",
    "verification.verify",
    "workflows.export",
    "workflows.full_precision",
    "workflows.inspect",
    "workflows.post_training",
):
    import_module(f"qkd_deploy.{_name}")


def child(request: dict[str, object], out: int, err: int) -> None:
    code = 70
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(str(request["cwd"]))
        sys.path.insert(0, "")
        largest = request.get("largest_file")
        if isinstance(largest, int):
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        code = main(request["args"])  # type: ignore[arg-type]
    except BaseException:  # noqa: BLE001 - the tests look for its traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            pid = os.fork()
            if pid == 0:
                child(json.loads(line), out.fileno(), err.fileno())
            _, status = os.waitpid(pid, 0)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read())
        answer = {"code": os.waitstatus_to_exitcode(status), "out": texts[0], "err": texts[1]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
