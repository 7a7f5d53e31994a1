"""Kills, full disks and crowds: small numbers always, larger ones where RUNNER_KILLS asks for them.

The server is a process of its own and its ledger a file: it outlives every command, and it is the judge.
RUNNER_SEED replays a series of kills as far as clocks allow.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from faultserver import Arrival, Behaviour, FaultServer, Gate, executions, ok, read_ledger

from e2e.conftest import Cli, Ended, read_jsonl, request_line, write_jsonl

RequestsFile = Callable[..., Path]
JobFile = Callable[..., Path]

KILLS = int(os.environ.get("RUNNER_KILLS", "12"))
SEED = int(os.environ.get("RUNNER_SEED", "1"))
TESTS = Path(__file__).parents[1]
ROWS = 240
CONCURRENCY = 8
LATENCY = 0.02
NOT_COMPARED = ("attempts", "request_id", "usage", "cost_usd")


class Process:
    """A fault server as a process, with its ledger in a file that is read while it is written."""

    def __init__(self, folder: Path, name: str = "server", *, latency: float = LATENCY) -> None:
        self.ledger = folder / f"{name}.ledger.jsonl"
        command = [sys.executable, "-m", "faultserver", "--latency", str(latency), "--ledger", self.ledger]
        self._process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(TESTS)}, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], 30)[0], "the fault server does not start"
        self.url = self._process.stdout.readline().decode().strip()
        self._read = 0
        self._rest = b""
        self._seen: Counter[str] = Counter()

    def seen(self) -> Counter[str]:
        """How many events of each kind the ledger holds by now."""
        with self.ledger.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._seen[orjson.loads(line)["event"]] += 1
        return self._seen

    def in_flight(self) -> int:
        seen = self.seen()
        return seen["arrived"] - seen["answered"]

    def executed(self) -> Counter[str]:
        return executions(self.ledger)

    def paid_again(self) -> int:
        """Executions beyond the first of each body."""
        found = self.executed()
        return sum(found.values()) - len(found)

    def markers(self) -> set[str]:
        return {event["marker"] for event in read_ledger(self.ledger) if event["event"] == "executed"}

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """`served(name, latency=...)` starts a fault server as a process."""
    started: list[Process] = []

    def start(name: str = "server", **how: Any) -> Process:
        started.append(Process(tmp_path, name, **how))
        return started[-1]

    yield start
    for one in started:
        one.close()


def summary_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(output.with_name(f"{output.name}.summary.json").read_bytes())
    rows = found["rows"]
    assert rows["in"] == rows["ok"] + rows["failed"] + rows["invalid"] + rows["skipped"]
    return found


def compared(output: Path) -> list[bytes]:
    """The lines of a job's output without what may differ from one run to another."""
    lines = read_jsonl(output)
    for line in lines:
        for name in NOT_COMPARED:
            del line["result"][name]
    return [orjson.dumps(line) for line in lines]


def write_job(folder: Path, rows: int) -> Path:
    """A job over that many rows in a folder of its own; a tenth of them have a twin."""
    folder.mkdir()
    write_jsonl(
        folder / "rows.jsonl",
        ({"id": n, "text": f"row=r{n - (n % 10 == 0)} {'ä\u2028' * (n % 7)}"} for n in range(1, rows + 1)),
    )
    job = {
        "name": "torture", "endpoint": "chat", "model": "gpt-6-luna", "key": "id", "input": "rows.jsonl",
        "output": "out.jsonl", "limits": {"concurrency": CONCURRENCY},
        "request": {"messages": [{"role": "user", "content": "{{ text }}"}], "max_completion_tokens": 40},
    }  # fmt: skip
    (folder / "job.yaml").write_bytes(orjson.dumps(job))
    return folder / "job.yaml"


# --- kill -9 ------------------------------------------------------------------------------------------


class Killer:
    """Chooses a moment for each kill: right at the start, while the input is read, while rows are asked, and
    while the output is written, in turn; where exactly, chance decides."""

    def __init__(self, server: Process, folder: Path, seed: int) -> None:
        self._server = server
        self._folder = folder
        self._chance = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.paid_again: list[int] = []

    def kill(self, running: subprocess.Popen[bytes], moment: str, left: int) -> bool:
        """Kill at such a moment; False if the command ended before it came."""
        chance, began, seen = self._chance.random(), time.monotonic(), self._server.seen().copy()
        wal = self._folder / "store.db-wal"
        size = wal.stat().st_size if wal.exists() else 0

        def has_come() -> bool:
            match moment:
                case "start":
                    return time.monotonic() - began > 0.7 * chance
                case "ingest":
                    # The log grows with the first rows that are written.
                    return wal.exists() and wal.stat().st_size > size
                case "asking":
                    return self._server.seen()["answered"] - seen["answered"] >= 0.9 * chance * left
                case _:
                    return self._server.seen()["answered"] - seen["answered"] >= left

        while not has_come():
            if running.poll() is not None:
                return False
        pause = {"ingest": 0.06, "asking": 0.02, "export": 0.12}.get(moment, 0) * self._chance.random()
        until = time.monotonic() + pause
        while time.monotonic() < until:
            pass
        if running.poll() is not None:
            return False
        running.send_signal(signal.SIGKILL)
        running.wait()
        self.kills[moment] += 1
        return True


MOMENTS = ("asking", "ingest", "export", "asking", "start", "asking")


def test_kill_minus_nine_at_any_moment(
    cli: Cli, served: Callable[..., Process], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    whole = served("whole")
    assert cli("run", write_job(tmp_path / "whole", ROWS), "--base-url", whole.url).code == 0
    expected = compared(tmp_path / "whole" / "out.jsonl")
    killed, most, total, jobs = Counter[str](), 0, 0, 0
    server = served()
    while killed.total() < KILLS:
        jobs += 1
        assert jobs <= KILLS + 10, f"the moments to kill do not come: {killed}"
        folder = tmp_path / f"job{jobs}"
        job = write_job(folder, ROWS)
        store = folder / "store.db"
        before = server.executed()
        killer = Killer(server, folder, SEED * 1000 + jobs)
        command = ("run", job, "--base-url", server.url, "--store", f"sqlite:///{store}")
        bound = 0
        for number in range(min(6, KILLS - killed.total())):
            left = ROWS - (server.executed() - before).total()
            at_start = server.paid_again()
            running = cli.start(*command)
            moment = MOMENTS[(jobs + number) % len(MOMENTS)]
            if not killer.kill(running.process, moment, max(1, left)):
                break
            bound += CONCURRENCY
            again = server.paid_again() - at_start
            most = max(most, again)
        ended = cli(*command)
        assert ended.code == 0, ended.err
        killed += killer.kills

        assert compared(folder / "out.jsonl") == expected, "the same lines as without a kill"
        executed = server.executed() - before
        summary = summary_of(folder / "out.jsonl")
        repaid = executed.total() - ROWS
        assert 0 <= repaid <= bound
        assert repaid <= summary["ambiguous"] <= bound, "what may have been paid twice is counted"
        assert summary["rows"] == {"in": ROWS, "ok": ROWS, "failed": 0, "invalid": 0, "skipped": 0}
        assert not list(folder.glob(".*.part"))
        calls = server.seen()["arrived"]
        assert cli(*command).code == 0
        assert server.seen()["arrived"] == calls
        total += repaid
    record_property("kills", dict(killed))
    record_property("repaid", total)
    record_property("most repaid after one kill", most)
    print(f"kills {dict(killed)} in {jobs} jobs; repaid {total}, at most {most} a kill")
