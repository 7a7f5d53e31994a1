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
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parents[1]
LONGEST = 600.0


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
    with out.open("wb") as stdout, err.open("wb") as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=home,
            env=environment(home),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
        # wait4 gives this child's own usage; getrusage would give the highest of all children so far.
        with _alarm(process):
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if code not in expect:
        raise RuntimeError(f"{' '.join(arguments)} ended with {code}:\n{err.read_text()[-3000:]}")
    per_mb = 2**20 if sys.platform == "darwin" else 2**10
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / per_mb, out.read_text(), code)


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
def serving(arguments: Sequence[str], home: Path) -> Iterator[str]:
    """A server in another process: the address that its first line of output holds."""
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
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        found = [word for word in first.split() if word.startswith("http")]
        if not found:
            raise RuntimeError(f"{' '.join(arguments)} said {first!r}:\n{(home / 'server.err').read_text()}")
        yield found[0]
    finally:
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
    lines = [
        f"{when}  {platform.system()} {platform.release()} {platform.machine()}, {_processor()}, "
        f"{os.cpu_count()} cores, load {load}",
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        + ", ".join(
            f"{name} {_version(name)}"
            for name in ("openai", "aiohttp", "uvloop", "orjson", "msgspec", "sqlalchemy", "jinja2")
        ),
    ]
    return "\n".join(lines)


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


@contextlib.contextmanager
def _alarm(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill a process that never ends."""

    def kill(_number: int, _frame: object) -> None:
        process.kill()

    before = signal.signal(signal.SIGALRM, kill)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
