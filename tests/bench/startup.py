"""How long a command takes that has little to do, or nothing but to look."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from filling import NOWHERE
from inputs import write
from measuring import Figure, environment, measure, median_wall, runner, serving, work

ROWS = 10_000
FEW = 5
TIMES = 5
BARE = "a bare interpreter in the same run"


def figures(folder: Path) -> Iterator[Figure]:
    """Start-up of the help, of `status`, and of a run that is finished already; both ends of a short run."""
    bare = median_wall(lambda: measure(["-c", "pass"], folder), TIMES)

    def figure(what: str, wall: float, target: str = "") -> Figure:
        return Figure(
            "startup", what, f"{wall:.2f} s", target, f"{wall / bare:.1f} x a bare interpreter ({bare:.3f} s)"
        )

    yield figure("runner --help", median_wall(lambda: runner(["--help"], folder), TIMES), "0.3 s")
    requests, store = folder / "requests.jsonl", folder / "store.db"
    write("requests", ROWS, requests)
    work("filling", [requests, store, ROWS], folder)
    kept = ["--store", f"sqlite:///{store}"]
    run = ["run", str(requests), "-o", str(folder / "out.jsonl"), "--base-url", NOWHERE, *kept]
    runner(run, folder)
    size = f"{ROWS:,} rows done"
    yield figure(
        f"runner status, {size}", median_wall(lambda: runner(["status", *kept], folder), TIMES), "0.7 s"
    )
    yield figure(
        f"runner status last, {size}",
        median_wall(lambda: runner(["status", "last", *kept], folder), TIMES),
        "0.7 s",
    )
    yield figure(f"the same run again, {size}", median_wall(lambda: runner(run, folder), TIMES))
    yield from _both_ends(folder)


def _both_ends(folder: Path) -> Iterator[Figure]:
    """What a run of few rows takes before its first call and after its last answer, the store made before."""
    requests, ledger = folder / "few.jsonl", folder / "ledger"
    write("short", FEW, requests)
    arguments = ["-m", "faultserver", "--port", "0", "--script", "ok", "--ledger", str(ledger)]
    with serving(arguments, folder) as url:
        command = [
            "run",
            str(requests),
            "-o",
            str(folder / "few.out"),
            "--base-url",
            url,
            "--quiet",
            "--fresh",
        ]
        runner([*command, "--store", f"sqlite:///{folder / 'few.db'}"], folder)
        ends = [
            _ends([*command, "--store", f"sqlite:///{folder / 'few.db'}"], folder, ledger)
            for _ in range(TIMES)
        ]
    first, last = (statistics.median(taken) for taken in zip(*ends, strict=True))
    yield Figure("startup", f"a run of {FEW} rows: from its start to its first call", f"{first:.2f} s")
    yield Figure("startup", f"a run of {FEW} rows: from its last answer to its end", f"{last:.2f} s")


def _ends(command: list[str], folder: Path, ledger: Path) -> tuple[float, float]:
    before = ledger.stat().st_size
    # The server's clock is the machine's, as ours is.
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "runner", *command],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=60,
    )
    ended = time.monotonic()
    events = [json.loads(line) for line in ledger.read_bytes()[before:].split(b"\n") if line]
    first = min(event["t"] for event in events if event["event"] == "arrived")
    last = max(event["t"] for event in events if event["event"] == "answered")
    return first - started, ended - last
