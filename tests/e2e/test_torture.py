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
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from e2e.conftest import Cli, Ended, read_jsonl, write_jsonl
from faultserver import Arrival, Behaviour, FaultServer, Gate, ok

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
        options = ["--latency", str(latency), "--ledger", str(self.ledger)]
        command = [sys.executable, "-m", "faultserver", *options]
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

    def drain(self) -> None:
        """Wait until all that has arrived is answered, whoever hears it."""
        until, quiet = time.monotonic() + 10, 0
        # What a client sent before it was killed may still lie unread in a socket: one quiet look is too few.
        while quiet < 5:
            assert time.monotonic() < until, f"the server does not answer: {self._seen}"
            select.select([], [], [], 0.01)
            before = self._seen["arrived"]
            now = self.seen()
            quiet = quiet + 1 if now["arrived"] == now["answered"] == before else 0

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
    """A job over that many rows in a folder of its own; a tenth of them ask what the row before asks."""
    folder.mkdir()
    asked = [n - (n % 10 == 0) for n in range(1, rows + 1)]
    texts = [f"row=r{n} " + "\u00e4\u2028" * (n % 7) for n in asked]
    write_jsonl(folder / "rows.jsonl", ({"id": n, "text": text} for n, text in enumerate(texts, 1)))
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

    def __init__(self, server: Process, store: Path, seed: int) -> None:
        self._server = server
        self._store = store
        self._chance = random.Random(seed)

    def kill(self, running: subprocess.Popen[bytes], moment: str, left: int) -> bool:
        """Kill at such a moment, `left` rows being unanswered; False if the command ended before it came."""
        chance, began, seen = self._chance.random(), time.monotonic(), self._server.seen()["answered"]
        log = self._store.with_name(f"{self._store.name}-wal")
        size = log.stat().st_size if log.exists() else 0

        def has_come() -> bool:
            match moment:
                case "start":
                    return time.monotonic() - began > 0.7 * chance
                case "ingest":
                    # The log grows with the first things that are written.
                    return log.exists() and log.stat().st_size > size
                case "asking":
                    return self._server.seen()["answered"] - seen >= 0.9 * chance * left
                case _:
                    return self._server.seen()["answered"] - seen >= left

        while not has_come():
            if has_ended(running, 0.002):
                return False
        longest = {"ingest": 0.06, "asking": 0.02, "export": 0.1}.get(moment, 0.0)
        if has_ended(running, longest * self._chance.random()):
            return False
        running.send_signal(signal.SIGKILL)
        running.wait()
        return True


def has_ended(running: subprocess.Popen[bytes], within: float) -> bool:
    """Whether a process ends within so many seconds."""
    try:
        running.wait(within)
    except subprocess.TimeoutExpired:
        return False
    return True


def answers_in(store: Path, copy: Path) -> int:
    """How many tasks a store holds an answer to, looked at in a copy, so that the store stays as it is."""
    if not store.exists() or not store.stat().st_size:
        return 0
    copy.mkdir(exist_ok=True)
    for ending in ("", "-wal"):
        if store.with_name(store.name + ending).exists():
            shutil.copy(store.with_name(store.name + ending), copy / f"copy.db{ending}")
        else:
            (copy / f"copy.db{ending}").unlink(missing_ok=True)
    with closing(sqlite3.connect(copy / "copy.db")) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'task'").fetchone():
            return 0
        return int(connection.execute("SELECT count(*) FROM task WHERE state = 'answered'").fetchone()[0])


MOMENTS = ("asking", "ingest", "export", "asking", "start", "asking")


class KillLoop:
    """Jobs that are killed up to six times each, then left to end; what that came to."""

    def __init__(self, cli: Cli, server: Process, folder: Path, expected: list[bytes]) -> None:
        self._cli = cli
        self._server = server
        self._folder = folder
        self._expected = expected
        self.kills: Counter[str] = Counter()
        self.jobs = 0
        self.repaid = 0
        self.most = 0

    def one_job(self, most_kills: int) -> None:
        self.jobs += 1
        folder = self._folder / f"job{self.jobs}"
        job, store = write_job(folder, ROWS), folder / "store.db"
        killer = Killer(self._server, store, SEED * 1000 + self.jobs)
        command = ("run", job, "--base-url", self._server.url, "--store", f"sqlite:///{store}")
        before, kept, lost, kills = self._executed(), 0, 0, 0
        for number in range(most_kills):
            running = self._cli.start(*command)
            moment = MOMENTS[(self.jobs + number) % len(MOMENTS)]
            if not killer.kill(running.process, moment, max(1, ROWS - kept)):
                assert running.wait().code == 0
                break
            kills += 1
            self.kills[moment] += 1
            self._server.drain()
            kept = answers_in(store, folder / "copy")
            unknown = self._executed() - before - kept - lost
            assert 0 <= unknown <= CONCURRENCY, "no more than was in flight can be lost by one kill"
            lost += unknown
            self.most = max(self.most, unknown)
        ended = self._cli(*command)
        assert ended.code == 0, ended.err
        assert self._executed() - before == ROWS + lost, "what is lost is paid again once, and nothing else"
        self.repaid += lost
        self._check_output(folder, lost, kills * CONCURRENCY)
        assert self._cli(*command).code == 0
        assert self._executed() - before == ROWS + lost

    def _check_output(self, folder: Path, lost: int, bound: int) -> None:
        assert compared(folder / "out.jsonl") == self._expected, "the same lines as without a kill"
        summary = summary_of(folder / "out.jsonl")
        assert summary["rows"] == {"in": ROWS, "ok": ROWS, "failed": 0, "invalid": 0, "skipped": 0}
        assert lost <= summary["ambiguous"] <= bound, "what may have been paid twice is counted"
        assert not list(folder.glob(".*.part"))

    def _executed(self) -> int:
        return self._server.seen()["executed"]


def test_kill_minus_nine_at_any_moment(
    cli: Cli, served: Callable[..., Process], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    server = served()
    assert cli("run", write_job(tmp_path / "whole", ROWS), "--base-url", server.url).code == 0
    loop = KillLoop(cli, server, tmp_path, compared(tmp_path / "whole" / "out.jsonl"))
    while loop.kills.total() < KILLS:
        loop.one_job(min(6, KILLS - loop.kills.total()))
        assert loop.jobs < KILLS + 10, f"the moments to kill do not come: {loop.kills}"
    figures = {"kills": dict(loop.kills), "jobs": loop.jobs, "repaid": loop.repaid, "most": loop.most}
    for name, value in figures.items():
        record_property(name, value)
    print(figures)


# --- a disk that fills --------------------------------------------------------------------------------

ON_A_SMALL_DISK = """
mount -t tmpfs -o size=$1k tmpfs "$2" || exit 99
disk=$2; saved=$3; shift 3
"$@"
code=$?
cp -a "$disk"/. "$saved"/ || exit 98
exit $code
"""


class SmallDisk:
    """A tmpfs of a size, mounted for one command at a time; what the command leaves there is saved after it."""

    def __init__(self, folder: Path, kib: int) -> None:
        self._kib = kib
        self.path = folder / f"disk-{kib}"
        self.saved = folder / f"saved-{kib}"
        self.path.mkdir()
        self.saved.mkdir()

    def run(self, cli: Cli, *args: object) -> Ended:
        """Run the command with the disk in its place."""
        namespace = ["unshare", "-Urm"] if can_unshare("-Urm") else ["unshare", "-m"]
        shell = ["sh", "-c", ON_A_SMALL_DISK, "sh", str(self._kib), str(self.path), str(self.saved)]
        done = subprocess.run(
            [*namespace, *shell, sys.executable, "-m", "runner", *map(str, args)],
            env=cli._environment(cli.env),
            cwd=cli.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )
        ended = Ended(done.returncode, done.stdout, done.stderr.decode(), 0.0)
        assert ended.code not in (98, 99), ended.err
        assert "Traceback" not in ended.err
        return ended


def can_unshare(how: str) -> bool:
    mount = ["unshare", how, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(mount, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Callable[[int], SmallDisk]:
    """`small_disk(kib)`: a disk of that size. Linux only: elsewhere the test is left out, with a word."""
    return disks_in(tmp_path)


def disks_in(folder: Path) -> Callable[[int], SmallDisk]:
    """What makes small disks below a folder, where the system lets us."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux mounts a disk for one process alone")
    if not (can_unshare("-Urm") or can_unshare("-m")):
        pytest.fail("a full disk cannot be tested here: neither root nor a user namespace may mount a tmpfs")
    return lambda kib: SmallDisk(folder, kib)


@pytest.mark.parametrize("kib", [300, 1100, 1500, 1900, 2300, 2700])
def test_a_store_whose_disk_fills_loses_no_paid_answer(
    cli: Cli, served: Callable[..., Process], small_disk: Callable[[int], SmallDisk], tmp_path: Path, kib: int
) -> None:
    server, disk = served(latency=0.01), small_disk(kib)
    job = write_job(tmp_path / "job", ROWS)
    command = ("run", job, "--base-url", server.url, "--concurrency", "48")
    full = disk.run(cli, *command, "--store", f"sqlite:///{disk.path / 'store.db'}")
    assert full.code in (0, 74), full.err
    if full.code == 74:
        assert "disk" in full.err
        assert "Free some space" in full.err
        assert not (tmp_path / "job" / "out.jsonl").exists()
    paid = server.seen()["executed"]
    assert paid == 0 or kib > 300, "where there is no room at all, nothing is asked"
    assert answers_in(disk.saved / "store.db", tmp_path / "copy") == paid
    ended = cli(*command, "--store", f"sqlite:///{disk.saved / 'store.db'}")
    assert ended.code == 0, ended.err
    assert server.seen()["executed"] == ROWS, "not one is paid again"
    summary = summary_of(tmp_path / "job" / "out.jsonl")
    assert summary["rows"]["ok"] == ROWS
    assert summary["ambiguous"] == 0
    print({"kib": kib, "code": full.code, "paid before": paid})


def test_an_output_whose_disk_fills_is_exported_elsewhere_for_nothing(
    cli: Cli, served: Callable[..., Process], small_disk: Callable[[int], SmallDisk], tmp_path: Path
) -> None:
    server, disk = served(latency=0.0), small_disk(32)
    job = write_job(tmp_path / "job", ROWS)
    ended = disk.run(cli, "run", job, "--base-url", server.url, "-o", disk.path / "out.jsonl")
    assert ended.code == 73, ended.err
    assert str(disk.path / "out.jsonl") in ended.err
    assert list(disk.saved.iterdir()) == [], "no half of an output is left"
    assert server.seen()["executed"] == ROWS
    assert cli("export", "last", "-o", tmp_path / "elsewhere.jsonl").code == 0
    assert len(read_jsonl(tmp_path / "elsewhere.jsonl")) == ROWS
    assert summary_of(tmp_path / "elsewhere.jsonl")["rows"]["ok"] == ROWS
    assert cli("run", job, "--base-url", server.url).code == 0
    assert server.seen()["executed"] == ROWS


# --- a crowd ------------------------------------------------------------------------------------------


def test_two_runs_at_once_share_a_store(
    cli: Cli, requests_file: RequestsFile, job_file: JobFile, tmp_path: Path
) -> None:
    gate = Gate()

    def script(arrival: Arrival) -> Behaviour:
        return ok().held(gate)

    with FaultServer(script) as server:
        cli.env["OPENAI_BASE_URL"] = server.url
        one = cli.start("run", requests_file(200), "--concurrency", "8")
        other = cli.start("run", job_file(200), "--concurrency", "8")
        # Both are under way before either is answered.
        server.ledger.wait_until(lambda ledger: ledger.in_flight == 2, timeout=30)
        gate.open()
        assert one.wait().code == 0
        assert other.wait().code == 0
        assert sum(server.ledger.executed.values()) == len(server.ledger.executed) == 400
    assert len(read_jsonl(tmp_path / "requests.results.jsonl")) == 200
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 200


def test_of_twenty_that_start_one_series_at_once_one_runs(
    cli: Cli, requests_file: RequestsFile, tmp_path: Path
) -> None:
    gate = Gate()

    def script(arrival: Arrival) -> Behaviour:
        return ok().held(gate)

    with FaultServer(script) as server:
        command = ("run", requests_file(30), "--base-url", server.url)
        started = [cli.start(*command) for _ in range(20)]
        # The one that runs cannot end before the gate is opened: the others end meanwhile.
        until = time.monotonic() + 60
        while sum(one.process.poll() is not None for one in started) < 19:
            assert time.monotonic() < until, "somebody waits for the lock"
            select.select([], [], [], 0.05)
        late = cli(*command)
        assert late.code == 5
        assert late.seconds < 5
        assert "runner cancel" in late.err
        assert cli(*command, "--if-locked", "ok").code == 0
        gate.open()
        assert Counter(one.wait().code for one in started) == {0: 1, 5: 19}
        assert set(server.ledger.executed.values()) == {1}
        assert server.ledger.calls() == 30
    assert len(read_jsonl(tmp_path / "requests.results.jsonl")) == 30
