"""How soon a resume asks when a million rows are in the store and all but a few are done, and what looking costs."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from inputs import write
from measuring import Figure, environment, median_wall, runner, serving, work

ROWS = 1_000_000
FEW = 10_000
LEFT = 1_000
TIMES = 3
LONGEST = 120
PRICES = {"as_of": "2026-11-01", "models": {"gpt-6-luna": {"input": "0.10", "output": "0.50"}}}


@dataclass(frozen=True, slots=True)
class Begun:
    """A run whose rows are answered but for the last: the command that goes on with it, and what its server saw."""

    folder: Path
    command: tuple[str, ...]
    store: str
    ledger: Path


def figures(folder: Path, *, rows: int = ROWS) -> Iterator[Figure]:
    """From the start of a process to its first call, each time after a kill; then the end, and looks."""
    with _begun(folder / "few", FEW) as few:
        few_rows = _first_call(few)
    what = f"resume, {rows - LEFT:,} of {rows:,} rows done"
    with _begun(folder / "many", rows) as run:
        prices = run.folder / "prices.json"
        prices.write_text(json.dumps(PRICES))
        for named, options in (("", ()), (" under a budget", ("--budget", "1000", "--prices", str(prices)))):
            seconds = _first_call(run, options)
            beside = f"{few_rows:.2f} s with {FEW:,} rows"
            yield Figure("resume", f"{what}: first call{named}", f"{seconds:.2f} s", "4 s", beside)
        yield Figure("resume", f"status of it, {rows:,} rows", f"{_status(run):.2f} s", "0.7 s")
        done = runner(run.command, run.folder)
        cost = f"{done.wall:.1f} s, {done.cpu:.1f} s of CPU"
        yield Figure("resume", f"{what}: the rest asked, all drawn", cost)
        yield Figure("resume", f"{what}: peak memory", f"{done.rss:.0f} MB", "200 MB")
        again = median_wall(lambda: runner(run.command, run.folder), TIMES)
        yield Figure("resume", f"the same run again, {rows:,} rows done", f"{again:.2f} s")
        yield Figure("resume", f"status of it, {rows:,} rows", f"{_status(run):.2f} s", "0.7 s")


@contextlib.contextmanager
def _begun(folder: Path, rows: int) -> Iterator[Begun]:
    folder.mkdir()
    requests, store, ledger = folder / "requests.jsonl", folder / "store.db", folder / "ledger"
    write("short", rows, requests)
    arguments = ["-m", "faultserver", "--port", "0", "--script", "ok", "--ledger", str(ledger)]
    with serving(arguments, folder) as url:
        work("filling", [requests, store, rows - LEFT, url, "at-once"], folder)
        command = ("run", str(requests), "-o", str(folder / "out.jsonl"), "--base-url", url, "--quiet")
        kept = f"sqlite:///{store}"
        yield Begun(folder, (*command, "--store", kept), kept, ledger)


def _first_call(run: Begun, options: Sequence[str] = ()) -> float:
    """The median of several starts, each killed at its first call, so that the next one follows a crash."""
    return statistics.median(_killed_at_first_call(run, options) for _ in range(TIMES))


def _killed_at_first_call(run: Begun, options: Sequence[str]) -> float:
    with run.ledger.open("rb") as ledger:
        ledger.seek(0, 2)
        # The server's clock is the machine's, as ours is.
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "runner", *run.command, *options],
            cwd=run.folder,
            env=environment(run.folder),
            stdin=subprocess.DEVNULL,
        )
        try:
            while time.monotonic() < started + LONGEST and process.poll() is None:
                for line in ledger:
                    event = json.loads(line)
                    if event["event"] == "arrived" and event["t"] > started:
                        return float(event["t"] - started)
                time.sleep(0.002)
        finally:
            process.kill()
            process.wait()
    raise RuntimeError(f"{' '.join(run.command)} ended with {process.returncode} and asked nothing")


def _status(run: Begun) -> float:
    return median_wall(lambda: runner(["status", "last", "--store", run.store], run.folder), TIMES)
