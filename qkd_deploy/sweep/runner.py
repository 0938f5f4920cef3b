"""Run the entries of a sweep, a few at a time, and keep its tables up to date."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from qkd_deploy.errors import UserError
from qkd_deploy.provenance import provenance
from qkd_deploy.sweep.data_now import Fingerprints
from qkd_deploy.sweep.entry import EntryResult, finished, run_entry
from qkd_deploy.sweep.plan import Entry, Plan, read_plan
from qkd_deploy.sweep.processes import Processes
from qkd_deploy.sweep.results import Combination, combinations, write_results


@dataclass(frozen=True)
class SweepReport:
    """The results of a sweep.

    Attributes:
        folder: holds ``results.md``, ``results.json`` and a folder for each entry.
        rows: one per combination, over its seeds.
        failures: by label, why an entry is not verified; empty where all are.
    """

    folder: Path
    rows: list[Combination]
    failures: dict[str, str]


def run_sweep(
    path: Path | str,
    out: Path | str,
    *,
    jobs: int = 1,
    command: str = "",
    report: Callable[[str], None] = lambda line: None,
) -> SweepReport:
    """Train, export and verify every entry that an earlier call has not finished.

    Args:
        path: the sweep, see ``plan``.
        out: a folder, new or of an earlier call; entries are recognised by their resolved settings.
        jobs: entries at a time.
        command: how the sweep was called, for the results.
        report: receives a line when an entry begins and ends.

    Raises:
        UserError: the file is not a sweep, the folder cannot be written, or another sweep is running in it.
    """
    plan, folder = read_plan(path), Path(out)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UserError(f"another sweep is running in {folder}; wait for it, or choose another --out") from error
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}; choose another --out") from error
    try:
        return _Sweep(plan, folder, report, provenance(command)).run(jobs)
    finally:
        lock.release()


class _Sweep:
    """One call of ``run_sweep``: its plan, its folder and the results so far."""

    def __init__(self, plan: Plan, folder: Path, report: Callable[[str], None], provenance: dict[str, Any]) -> None:
        self._plan = plan
        self._folder = folder
        self._report = report
        self._provenance = provenance
        self._processes = Processes()
        self._results: dict[str, EntryResult] = {}

    def run(self, jobs: int) -> SweepReport:
        waiting, data = [], Fingerprints()
        for entry in self._plan.entries:
            done = finished(entry, self._folder_of(entry), self._plan.verify, data.of)
            if done is None:
                waiting.append(entry)
            else:
                self._results[entry.id] = done
        self._report(f"{len(self._plan.entries)} entries, {len(self._results)} of them finished before")
        self._write()
        with ThreadPoolExecutor(jobs) as pool:
            try:
                self._collect({pool.submit(self._one, entry): entry for entry in waiting})
            except BaseException:
                # also Ctrl-C and SIGTERM; the threads end when their processes have
                pool.shutdown(wait=False, cancel_futures=True)
                self._processes.stop()
                raise
        results = ((entry.label, self._results[entry.id]) for entry in self._plan.entries)
        failures = {label: result.failure for label, result in results if not result.verified}
        return SweepReport(self._folder, combinations(self._plan.entries, self._results), failures)

    def _collect(self, futures: dict[Future[EntryResult], Entry]) -> None:
        running = set(futures)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                entry, result = futures[future], future.result()
                self._results[entry.id] = result
                accuracy = "" if result.accuracy is None else f", {result.accuracy:.2f} %"
                outcome = f"verified{accuracy}" if result.verified else f"failed: {result.failure}"
                self._report(f"[{len(self._results)}/{len(self._plan.entries)}] {entry.label}: {outcome}")
                self._write()

    def _one(self, entry: Entry) -> EntryResult:
        folder = self._folder_of(entry)
        self._report(f"{entry.label}: {'going on' if (folder / 'config.toml').exists() else 'starting'} in {folder}")
        return run_entry(entry, folder, self._plan.verify, self._processes)

    def _folder_of(self, entry: Entry) -> Path:
        return self._folder / entry.id

    def _write(self) -> None:
        write_results(self._folder, self._plan, self._results, self._provenance)
