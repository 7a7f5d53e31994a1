"""Processes measured from outside: wall time, CPU time, and the most memory that they held."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parents[1]
LONGEST = 600


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `target` is what the product promises, `beside` what was measured along with it."""

    part: str
    what: str
    figure: str
    target: str = ""
    beside: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process took: seconds of wall clock, seconds of CPU with those of its children, MB of memory."""

    wall: float
    cpu: float
    rss: float
    output: str
    code: int

    @property
    def said(self) -> dict[str, Any]:
        """The last line of standard output, as JSON."""
        found: dict[str, Any] = json.loads(self.output.strip().splitlines()[-1])
        return found


def environment(home: Path) -> dict[str, str]:
    """A scrubbed environment: no key, no proxy, a data folder of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(BENCH)])
    return kept | {"HOME": str(home), "XDG_DATA_HOME": str(home / "data"), "PYTHONPATH": paths}


def measure(arguments: Sequence[str], home: Path, *, expect: Sequence[int] = (0,)) -> Cost:
    """Run Python with these arguments to its end. RuntimeError if it ends with a code that was not expected."""
    out, err = home / "stdout", home / "stderr"
    launch = [sys.executable, str(BENCH / "launch.py"), str(LONGEST), str(out), str(err)]
    done = subprocess.run(
        [*launch, sys.executable, *arguments],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        check=True,
        timeout=LONGEST + 30,
    )
    cost = Cost(output=out.read_text(), **json.loads(done.stdout))
    if cost.code not in expect:
        raise RuntimeError(f"{' '.join(arguments)} ended with {cost.code}:\n{err.read_text()[-3000:]}")
    return cost


def runner(arguments: Sequence[str], home: Path, *, expect: Sequence[int] = (0,)) -> Cost:
    """Run the real command."""
    return measure(["-m", "runner", *arguments], home, expect=expect)


def work(module: str, arguments: Sequence[object], home: Path) -> Cost:
    """Run one of the bench's own modules as a process of its own."""
    return measure([str(BENCH / f"{module}.py"), *map(str, arguments)], home)


def median(take: Callable[[], Cost], times: int) -> Cost:
    """The run of median CPU time among several."""
    runs = sorted((take() for _ in range(times)), key=lambda cost: cost.cpu)
    return runs[(len(runs) - 1) // 2]


def median_wall(take: Callable[[], Cost], times: int) -> float:
    """The median of the wall time of several runs, in seconds."""
    return statistics.median(take().wall for _ in range(times))


@contextlib.contextmanager
def serving(arguments: Sequence[str], home: Path, *, apart: bool = False) -> Iterator[str]:
    """A server in another process: the address that its first line of output holds. Where it is to be `apart`, it has
    one core, and what is measured meanwhile the others: as at a server elsewhere, neither drives the other from its
    place."""
    with (home / "server.err").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=home,
            env=environment(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    cores = os.sched_getaffinity(0) if apart and hasattr(os, "sched_getaffinity") else set()
    if len(cores) > 1:
        os.sched_setaffinity(process.pid, {max(cores)})
        os.sched_setaffinity(0, cores - {max(cores)})
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        found = [word for word in first.split() if word.startswith("http")]
        if not found:
            raise RuntimeError(f"{' '.join(arguments)} said {first!r}:\n{(home / 'server.err').read_text()}")
        yield found[0]
    finally:
        if len(cores) > 1:
            os.sched_setaffinity(0, cores)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def fault_server(home: Path) -> contextlib.AbstractContextManager[str]:
    """The tests' own server, which answers every call at once."""
    return serving(["-m", "faultserver", "--port", "0", "--script", "ok"], home)


def machine() -> str:
    """Where, when and with what this was measured."""
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    names = ("openai", "aiohttp", "uvloop", "orjson", "msgspec", "sqlalchemy", "jinja2")
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    return (
        f"{when}  {system}, {_processor()}, {os.cpu_count()} cores, load {load}\n"
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {versions}"
    )


def rate(count: int, seconds: float) -> str:
    return f"{count / seconds:,.0f}/s"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
