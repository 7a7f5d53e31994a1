"""kill -9 at every write of a run in batch mode, and at every request; then the same command again.

The run is small and whole: two batches (the first expires half done), each packed, uploaded, created, looked at,
fetched and settled, and then the output. RUNNER_KILLS, which `make torture` sets, has every second start killed as
well, at a point that chance decides.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from e2e.batch_runs import Case, Result
from e2e.conftest import Ended, read_jsonl
from e2e.killing import ForkEnded, Forks
from faultserver import Arrival, Behaviour, FaultServer, ok, reset

ROWS = 6
SIDE_BY_SIDE = 6
AT_LENGTH = "RUNNER_KILLS" in os.environ
SEED = int(os.environ.get("RUNNER_SEED", "1"))
STRIDE = 1 if AT_LENGTH else int(os.environ.get("RUNNER_STRIDE", "2"))
QUARANTINE = "0.8s"
SLACK = 20
"""Points that one run may have and another not: how often a batch is looked at, time decides."""


@dataclass
class Killed:
    """A run that was killed, any number of times, and then left to end."""

    case: Case
    server: FaultServer
    forks: Forks = field(repr=False)
    ends: list[ForkEnded] = field(default_factory=list, repr=False)

    def start(
        self, kill_at: int | None = None, on_start: Callable[[int], None] = lambda pid: None
    ) -> ForkEnded:
        """Start the command; it may die at a point."""
        ended = self.forks(
            self.case.command(self.server.url), folder=self.case.folder, kill_at=kill_at, on_start=on_start
        )
        self.ends.append(ended)
        assert ended.code in (0, -signal.SIGKILL), ended.screen
        return ended

    def check(self) -> None:
        """Nothing is lost, nothing asked twice, nothing left behind, whatever happened before."""
        last = self.ends[-1]
        assert last.code == 0
        result = Result(self.case, Ended(0, b"", last.screen, last.seconds), self.server.ledger)
        assert result.answered == self.case.ids
        assert result.executed == Counter(self.case.ids), "each row once"
        assert result.statuses == ("expired", "completed"), "no batch twice"
        assert result.summary["rows"]["ok"] == ROWS
        assert result.summary["tokens"]["total"] == self.server.ledger.usage["total"]
        assert result.files == {"out.jsonl", "out.jsonl.summary.json"}
        assert not [path for path in self.case.folder.rglob(".*") if path.is_file()], "no part is left"
        texts = [line["response"]["body"]["choices"][0]["message"] for line in read_jsonl(self.case.output)]
        assert len({str(one) for one in texts}) == ROWS


@pytest.fixture
def whole(forks: Forks, tmp_path: Path, empty_store: Path) -> Callable[[Callable[[Killed], None]], None]:
    """Call a function with a run in a folder of its own, and a server to go with it."""

    def one(name: str, use: Callable[[Killed], None]) -> None:
        options = ("--poll", "0.02s", "--quarantine", QUARANTINE)
        case = Case(tmp_path / name, empty_store, ROWS, options=options)
        with FaultServer(batches="expired:0.5", batch_time=0.05) as server:
            killed = Killed(case, server, forks)
            use(killed)
            killed.check()

    return one


def test_kill_minus_nine_at_every_write(whole, record_property) -> None:
    points: list[str] = []
    whole("whole", lambda run: points.extend(run.start().points))
    chance = random.Random(SEED)
    again = {n: chance.randrange(1, len(points)) for n in range(len(points) + SLACK)} if AT_LENGTH else {}
    died: Counter[bool] = Counter()
    wrong: list[str] = []

    def at(number: int) -> None:
        def use(run: Killed) -> None:
            died[run.start(number).was_killed] += 1
            if number in again:
                run.start(again[number])
            run.start()

        try:
            whole(f"point{number}", use)
        except AssertionError as error:
            wrong.append(f"killed at point {number} {points[number - 1 : number]}: {error}")

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(at, range(1, len(points) + SLACK, STRIDE)))
    assert not wrong, "\n\n".join(wrong)
    print({"points": len(points), "killed": died[True], "kinds": dict(Counter(points))})
    assert died[True] >= (len(points) - SLACK) // STRIDE


class Fatal:
    """What a server does that kills its client at a request, having done what was asked for, or not."""

    def __init__(self, at: int, *, done: bool) -> None:
        self._at = at
        self._done = done
        self._pid: Future[int] = Future()
        self._seen = itertools.count(1)
        self.has_killed = False

    def client(self, pid: int) -> None:
        """Name the process that is to die."""
        self._pid.set_result(pid)

    def __call__(self, arrival: Arrival) -> Behaviour:
        if next(self._seen) != self._at:
            return ok()
        os.kill(self._pid.result(10), signal.SIGKILL)
        self.has_killed = True
        return ok() if self._done else reset()


def test_kill_minus_nine_at_every_request(whole) -> None:
    requests: list[str] = []
    wrong: list[str] = []
    killed: Counter[str] = Counter()

    def plain(run: Killed) -> None:
        run.start()
        requests.extend(one.operation.name for one in run.server.ledger.arrivals)

    def at(number: int, done: bool) -> None:
        def use(run: Killed) -> None:
            run.server.script = fatal = Fatal(number, done=done)
            run.start(on_start=fatal.client)
            if fatal.has_killed:
                killed[run.server.ledger.arrivals[number - 1].operation.name] += 1
            run.start()

        try:
            whole(f"request{number}-{done}", use)
        except AssertionError as error:
            wrong.append(f"killed at request {number} {requests[number - 1 : number]}, {done=}: {error}")

    whole("whole", plain)
    numbers = range(1, len(requests) + 1)
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(at, [*numbers, *numbers], [True] * len(numbers) + [False] * len(numbers)))
    assert not wrong, "\n\n".join(wrong)
    asked = {"files.create", "batches.create", "batches.retrieve", "files.content"}
    assert asked <= set(killed)
    print(dict(killed))
