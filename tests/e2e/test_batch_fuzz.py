"""Histories of a series that nobody would write down: faults, kills, stops, other modes, edited inputs, set clocks.

A seed draws what goes wrong at the server and what the user does between starts; then the run is left to end. Whatever
came before, each row is answered or told to have failed, no body is executed twice but where the policy says so, and
nothing is left out, in the store or on the disk. RUNNER_HISTORIES asks for more of them, RUNNER_SEED for others.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from e2e.batch_runs import Case, has_ended
from e2e.conftest import read_jsonl, request_line, write_jsonl
from e2e.killing import ForkEnded, Forks
from faultserver import B1_CASES, FaultServer, b1, named_batches

HISTORIES = int(os.environ.get("RUNNER_HISTORIES", "12"))
SEED = int(os.environ.get("RUNNER_SEED", "1"))
SIDE_BY_SIDE = 4
STARTS = 25
"""After so many starts a history ought to have ended."""

PRICES = {
    "as_of": "2026-11-01",
    "models": {
        "gpt-6-luna": {"input": "0.10", "output": "0.50", "batch": {"input": "0.05", "output": "0.25"}}
    },
}
LATE = ("create-late", "list-lag", "trouble")
WORDS = """
create-lost-executed create-lost upload-reset upload-lost failed-validation no-files error-lines missing-row unicode
doubled-row unknown-row shuffled empty-ids empty-error-file flapping odd-word counts-down not-found-once cut-download
"""


def a_fault(chance: random.Random) -> str:
    """One thing that goes wrong, by its name."""
    words = [
        *WORDS.split(),
        *LATE,
        "queue-full",
        "queue-full-400",
        "expired",
        "cancelled-partial",
        "b1",
        "stuck",
    ]
    word = chance.choice(words)
    match word:
        case "create-late" | "list-lag" | "trouble":
            return f"{word}:{chance.choice([0.1, 0.3, 0.8])}"
        case "queue-full" | "queue-full-400":
            return f"{word}:{chance.randint(1, 2)}"
        case "expired" | "cancelled-partial":
            return f"{word}:{chance.choice([0, 0.3, 0.7, 1])}"
        case "b1":
            return f"b1:{chance.randrange(B1_CASES)}"
        case "stuck":
            return f"stuck:{chance.choice(['validating', 'in_progress', 'finalizing'])}"
        case _:
            return word


@dataclass
class History:
    """What a seed says: its input and its faults, and what it has come to."""

    seed: int
    folder: Path
    empty_store: Path
    forks: Forks = field(repr=False)
    told: list[str] = field(default_factory=list)
    screens: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.chance = chance = random.Random(self.seed)
        self.faults = "+".join(a_fault(chance) for _ in range(chance.randint(1, 4)))
        self.rows = dict.fromkeys(range(1, 1 + chance.choice([1, 2, 7, 20, 60, chance.randint(1, 400)])), 0)
        late = sum(float(one.split(":")[1]) for one in self.faults.split("+") if one.startswith(LATE))
        self.quarantine = 1.5 + 2 * late
        self.case = Case(self.folder / str(self.seed), self.empty_store, 1)
        self.is_stuck = "stuck" in self.faults
        gone = [b1(int(one[3:])) for one in self.faults.split("+") if one.startswith("b1:")]
        # A batch of one row that is missing claims work, and shows none.
        claims = "no-files" in self.faults or "missing-row" in self.faults
        self.may_hold = claims or any(one.terminal for one in gone)
        self.loses_answers = any(one.answers_gone for one in gone)
        self.poll = chance.choice([0.05, 0.1, 0.2])
        self.budget: str | None = chance.choice([None, None, "1.00", "0.0004"])
        self.deadline = chance.choice(["1h", "3s", "20s"])
        self.mode = "batch"
        self.ways = [chance.choice(["batch", "batch", "batch", "online", "auto"]) for _ in range(8)]
        self.limit: int | None = None
        self.is_aged = self.was_edited = self.was_cut_online = self.was_retried = False
        self.write_input()

    # --- what the user does -------------------------------------------------------------------------------

    def write_input(self) -> None:
        """Write the input anew."""
        lines = []
        for n, version in self.rows.items():
            body = {"messages": [{"role": "user", "content": f"row=r{n}v{version} say something"}]}
            lines.append(request_line(n, body=body))
        write_jsonl(self.case.input, lines)

    def options(self) -> list[str]:
        found = ["--poll", f"{self.poll}s", "--queue-wait", "0.1s", "--quarantine", f"{self.quarantine}s"]
        found += ["--mode", self.mode, "--grace", "1s"]
        if self.budget is not None:
            path = self.case.folder / "prices.json"
            path.write_bytes(orjson.dumps(PRICES))
            found += ["--prices", str(path), "--budget", self.budget]
        if self.mode == "auto":
            found += ["--deadline", self.deadline]
        return found

    def start(
        self, server: FaultServer, *more: str, kill_at: int | None = None, term: float | None = None
    ) -> int:
        """The same command again, to its end or its death; its exit code."""
        limit = [] if self.limit is None else ["--limit", str(self.limit)]
        args = ["run", str(self.case.input), "-o", str(self.case.output), *limit]
        return self.command(server, [*args, *self.options(), *more], kill_at=kill_at, term=term)

    def command(
        self, server: FaultServer, args: list[str], *, kill_at: int | None = None, term: float | None = None
    ) -> int:
        timers: list[threading.Timer] = []

        def begun(pid: int) -> None:
            if term is not None:
                timers.append(threading.Timer(term, stop, (pid,)))
                timers[0].start()

        self.told.append(f"{' '.join(one for one in args if '/' not in one)} kill={kill_at} term={term}")
        try:
            ended: ForkEnded = self.forks(
                [*args, *self.case.where(server.url)],
                folder=self.case.folder,
                kill_at=kill_at,
                on_start=begun,
            )
        finally:
            for timer in timers:
                timer.cancel()
                timer.join()
        self.told.append(f"  -> {ended.code} in {ended.seconds:.1f} s")
        self.screens.append(ended.screen)
        assert "Traceback" not in ended.screen, ended.screen
        # A signal may come before anybody listens.
        assert ended.code in (0, 3, 4, 75, -signal.SIGKILL, -signal.SIGTERM), ended.screen
        if ended.code in (-signal.SIGKILL, 4) and self.mode != "batch":
            self.was_cut_online = True
        return ended.code

    def shift_clock(self, seconds: float) -> None:
        """Let the store have been written so much later than it was: the clock was set back since."""
        self.told.append(f"clock {-seconds:+.0f} s")
        self.is_aged |= seconds < 0
        by = int(seconds * 1e6)
        with closing(sqlite3.connect(self.case.store)) as store:
            store.execute("UPDATE task SET due_at = due_at + ?", (by,))
            store.execute("UPDATE run SET created_at = created_at + ?", (by,))
            store.execute(
                "UPDATE batch SET created_at = created_at + ?, submitted_at = submitted_at + ?", (by, by)
            )
            for number, text in store.execute("SELECT id, submission FROM batch").fetchall():
                kept = orjson.loads(text)
                kept |= {name: kept[name] + seconds for name in ("t_send", "since", "due") if kept[name]}
                store.execute(
                    "UPDATE batch SET submission = ? WHERE id = ?", (orjson.dumps(kept).decode(), number)
                )
            store.commit()

    def edit(self) -> None:
        """Another input under the same name: rows more, fewer, or others."""
        chance, most = self.chance, max(self.rows)
        match chance.choice(["more", "fewer", "other", "limit"]):
            case "more":
                self.rows |= dict.fromkeys(range(most + 1, most + 1 + chance.randint(1, 20)), 0)
            case "fewer":
                kept = [n for n in self.rows if chance.random() < 0.7] or [most]
                self.rows = {n: self.rows[n] for n in kept}
            case "other":
                self.rows = {n: version + (chance.random() < 0.3) for n, version in self.rows.items()}
            case "limit":
                self.limit = None if self.limit else chance.randint(1, len(self.rows))
        self.was_edited = True
        self.write_input()
        self.told.append(f"edited: {len(self.rows)} rows, limit {self.limit}")

    def interfere(self, server: FaultServer) -> None:
        """Something happens between two starts, or to one."""
        chance = self.chance
        match chance.choice(
            ["kill", "kill", "term", "no-wait", "no-wait", "edit", "cancel", "clock", "mode"]
        ):
            case "kill":
                self.start(server, *self.patience(), kill_at=chance.randint(1, 160))
            case "term":
                self.start(server, *self.patience(), term=chance.uniform(0.02, 0.8))
            case "no-wait":
                self.start(server, "--no-wait")
            case "edit":
                self.edit()
            case "cancel":
                if self.case.store.stat().st_size and self.is_begun():
                    self.cancel(server)
            case "clock":
                self.shift_clock(chance.choice([-86_400, -3_600, 3_600, 86_400]))
            case "mode":
                self.mode = chance.choice(self.ways)

    def is_begun(self) -> bool:
        with closing(sqlite3.connect(self.case.store)) as store:
            return bool(store.execute("SELECT 1 FROM run WHERE state <> 'ingesting'").fetchone())

    def cancel(self, server: FaultServer) -> int:
        waits = [] if self.chance.random() < 0.5 else ["--no-wait"]
        more = ["--poll", f"{self.poll}s", "--quarantine", f"{self.quarantine}s"]
        return self.command(server, ["cancel", "last", *more, *waits])

    def patience(self) -> list[str]:
        # The older a batch, the longer the pauses between looks at it.
        return ["--no-wait"] if self.is_stuck or self.is_aged or self.chance.random() < 0.5 else []

    # --- the whole of it ------------------------------------------------------------------------------------

    def live(self) -> None:
        """Go through all of it."""
        faults = named_batches(self.faults, self.seed)
        batch_time = self.chance.choice([0.05, 0.2, 0.4])
        with FaultServer(batches=faults, batch_time=batch_time, seed=self.seed) as server:
            for _ in range(self.chance.randint(0, 4)):
                self.interfere(server)
            code = self.end(server)
            arrived = len(server.ledger.arrivals)
            assert self.start(server, *self.patience()) == code
            assert len(server.ledger.arrivals) == arrived, "a run that has ended asks nothing"
            self.check(server, code)

    def end(self, server: FaultServer) -> int:
        """Start until it is done; the exit code then."""
        if self.chance.random() < 0.5:
            self.mode = "batch"
        for number in range(STARTS):
            code = self.start(server, *self.patience())
            if number == STARTS // 2 and self.budget is not None:
                # Ever smaller batches fit into what is left of it.
                self.budget = "1.00"
            if code == 75:
                with suppress(TimeoutError):
                    server.ledger.wait_until(lambda ledger: has_ended(ledger, 1), timeout=0.5)
                if self.is_stuck and number % 3 == 2:
                    self.cancel(server)
            elif code == 4 and "does not allow" in self.screens[-1]:
                self.check_budget()
                self.budget = "1.00"
            elif code == 4:
                assert "are held" in self.screens[-1], self.screens[-1]
                assert self.may_hold, self.screens[-1]
                self.was_retried = True
                more = ["--no-wait"] if self.is_stuck else []
                self.command(server, ["retry", "last", *self.options(), *more])
            else:
                return code
        raise AssertionError(f"it is never done: {self.screens[-3:]}")

    def check_budget(self) -> None:
        assert self.budget is not None
        with closing(sqlite3.connect(self.case.store)) as store:
            [(cost,)] = store.execute("SELECT coalesce(sum(cost), 0) FROM answer").fetchall()
        if not self.was_edited:
            assert cost <= float(self.budget) * 1e12

    def check(self, server: FaultServer, code: int) -> None:
        """Nothing is lost, nothing asked twice, nothing left behind."""
        shown = read_jsonl(self.case.output)
        rows = list(self.rows.items())[: self.limit]
        assert [line["custom_id"] for line in shown] == [f"r{n}" for n, _ in rows], "in input order"
        failed = [line["custom_id"] for line in shown if line["error"] is not None]
        for line, (n, version) in zip(shown, rows, strict=True):
            if line["error"] is None:
                content = line["response"]["body"]["choices"][0]["message"]["content"]
                assert content.endswith(f" row=r{n}v{version}"), "each its own answer"
        assert len(failed) <= self.faults.count("failed-validation"), failed
        assert code == (3 if failed else 0)
        self.check_summary(server, len(rows), len(failed))

        twice = {sha: times for sha, times in server.ledger.executed.items() if times > 1}
        assert not twice or self.loses_answers or self.was_cut_online, "no body twice"
        if not self.was_edited:
            # What asks rows of another input alone, nobody waits for who does not have to.
            server.ledger.wait_until(lambda ledger: has_ended(ledger, 0), timeout=10)
        self.check_store(server)
        litter = [path for path in self.case.folder.rglob("*") if path.is_file() and "/batches/" in str(path)]
        assert not litter

    def check_summary(self, server: FaultServer, rows: int, failed: int) -> None:
        text = self.case.output.with_name("out.jsonl.summary.json").read_bytes()
        summary: dict[str, Any] = orjson.loads(text)
        assert summary["rows"] == {
            "in": rows,
            "ok": rows - failed,
            "failed": failed,
            "invalid": 0,
            "skipped": 0,
        }
        if not (self.was_edited or self.loses_answers or self.was_cut_online or self.was_retried):
            assert summary["tokens"]["total"] == server.ledger.usage["total"], "all that was paid for, once"

    def check_store(self, server: FaultServer) -> None:
        with closing(sqlite3.connect(self.case.store)) as store:
            states = Counter(dict(store.execute("SELECT state, count(*) FROM task GROUP BY 1").fetchall()))
            out = store.execute("SELECT count(*) FROM batch WHERE ended_at IS NULL").fetchone()[0]
            [(total,)] = store.execute("SELECT coalesce(sum(total_tokens), 0) FROM answer").fetchall()
        if not self.was_edited:
            assert not out
            assert set(states) <= {"answered", "failed"}, states
        assert not states["in_flight"]
        if not (self.loses_answers or self.was_cut_online or out):
            assert total == server.ledger.usage["total"], "all that was paid for is kept"


def stop(pid: int) -> None:
    """Ask a process to stop, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


@pytest.fixture(scope="module")
def histories(
    forks: Forks, tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> dict[int, Future[None]]:
    """Each history, lived to its end, several of them side by side."""
    folder = tmp_path_factory.mktemp("fuzz")

    def live(seed: int) -> None:
        history = History(seed, folder, empty_store, forks)
        try:
            history.live()
        except BaseException as error:
            told = "\n".join([f"seed {seed}: {history.faults}", *history.told])
            raise AssertionError(f"{told}\n{type(error).__name__}: {error}") from error

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return {seed: pool.submit(live, seed) for seed in range(SEED, SEED + HISTORIES)}


@pytest.mark.parametrize("seed", range(SEED, SEED + HISTORIES))
def test_whatever_happens_each_row_is_answered_once(seed: int, histories: dict[int, Future[None]]) -> None:
    histories[seed].result()
