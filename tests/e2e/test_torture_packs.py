"""Kills and full disks where calls carry many texts: no text is paid twice but what was in flight, to the token.

As in test_torture, RUNNER_KILLS asks for more kills, and RUNNER_SEED replays them as far as clocks allow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import orjson
import pytest
from e2e.conftest import Cli, read_jsonl, write_jsonl
from e2e.test_embeddings import inputs_of
from e2e.test_torture import (
    KILLS,
    MOMENTS,
    SEED,
    Killer,
    SmallDisk,
    answers_in,
    compared,
    disks_in,
    summary_of,
)
from faultserver import Arrival, Behaviour, FaultServer, error, ok
from faultserver.prompt import tokens

TEXTS = [f"text {n}" + " word" * (n % 7) for n in range(1, 2_001)]
DIMENSIONS = 64
LARGEST = 100
CONCURRENCY = 4
OK = ok()
TOO_MANY = error(413, None, "batch size too large")


class Watched:
    """The fault server, in this process, as the killer looks at it."""

    def __init__(self, server: FaultServer) -> None:
        self.ledger = server.ledger

    def seen(self) -> dict[str, int]:
        """How many texts were answered: those of calls, where a call's moment is meant, are spread evenly."""
        return {"answered": sum(self.paid().values())}

    def paid(self) -> Counter[str]:
        """How often each text was in a call that was carried out."""
        done = self.ledger.executed
        calls = {one.sha: one for one in self.ledger.arrivals if done[one.sha]}
        return sum((Counter(inputs_of(one) * done[sha]) for sha, one in calls.items()), Counter())

    def drain(self) -> None:
        """Wait until all that has arrived is answered, whoever hears it."""
        self.ledger.wait_until(lambda ledger: ledger.in_flight == 0)
        # What a client sent before it was killed may still lie unread in a socket.
        with pytest.raises(TimeoutError):
            self.ledger.wait_until(lambda ledger: ledger.in_flight > 0, timeout=0.05)
        self.ledger.wait_until(lambda ledger: ledger.in_flight == 0)


def script(arrival: Arrival) -> Behaviour:
    return TOO_MANY if arrival.paid and len(inputs_of(arrival)) > LARGEST else OK


@pytest.fixture
def small_packs() -> Iterator[FaultServer]:
    """A server that takes a hundred texts a call and is in no hurry."""
    with FaultServer(script, latency=0.01) as started:
        yield started


@pytest.fixture
def small_disk(tmp_path: Path) -> Callable[[int], SmallDisk]:
    """`small_disk(kib)`: a disk of that size."""
    return disks_in(tmp_path)


def write_job(folder: Path, *, dimensions: int = DIMENSIONS, texts: Sequence[str] = TEXTS) -> Path:
    folder.mkdir()
    write_jsonl(folder / "rows.jsonl", ({"id": n, "text": text} for n, text in enumerate(texts)))
    prices = {"as_of": "2026-11-01", "models": {"text-embedding-3-small": {"input": "1", "output": "0"}}}
    (folder / "prices.json").write_bytes(orjson.dumps(prices))
    job = {
        "name": "torture", "endpoint": "embeddings", "model": "text-embedding-3-small", "key": "id",
        "input": "rows.jsonl", "output": "out.jsonl", "limits": {"concurrency": CONCURRENCY},
        "request": {"input": "{{ text }}", "dimensions": dimensions},
    }  # fmt: skip
    (folder / "job.yaml").write_bytes(orjson.dumps(job))
    return folder / "job.yaml"


def check_sums(output: Path) -> None:
    """The tokens and the money of the rows are those of the texts, each of them once."""
    whole = sum(map(tokens, TEXTS))
    summary = summary_of(output)
    assert summary["rows"]["ok"] == len(TEXTS)
    assert summary["tokens"]["input"] == whole
    assert Decimal(summary["cost_usd"]["total"]) == Decimal(whole).scaleb(-6)
    results = [row["result"] for row in read_jsonl(output)]
    assert sum(one["usage"]["input"] for one in results) == whole
    assert sum(Decimal(one["cost_usd"]) for one in results) == Decimal(whole).scaleb(-6)


class KillLoop:
    """Jobs that are killed up to six times each, then left to end; what that came to."""

    def __init__(self, cli: Cli, watched: Watched, folder: Path, expected: list[bytes]) -> None:
        self._cli = cli
        self._watched = watched
        self._folder = folder
        self._expected = expected
        self.kills: Counter[str] = Counter()
        self.jobs = self.repaid = 0

    def one_job(self, url: str, most_kills: int) -> None:
        self.jobs += 1
        folder = self._folder / f"job{self.jobs}"
        job, store = write_job(folder), folder / "store.db"
        killer = Killer(self._watched, store, SEED * 1000 + self.jobs)  # type: ignore[arg-type]
        command = ("run", job, "--base-url", url, "--store", f"sqlite:///{store}")
        command = (*command, "--prices", folder / "prices.json")
        before, kept, lost, kills = self._watched.paid(), 0, 0, 0
        for number in range(most_kills):
            running = self._cli.start(*command)
            moment = MOMENTS[(self.jobs + number) % len(MOMENTS)]
            if not killer.kill(running.process, moment, max(1, len(TEXTS) - kept)):
                assert running.wait().code == 0
                break
            kills += 1
            self.kills[moment] += 1
            self._watched.drain()
            kept = answers_in(store, folder / "copy")
            unknown = (self._watched.paid() - before).total() - kept - lost
            assert 0 <= unknown <= CONCURRENCY * LARGEST, "no more than was in flight can be lost by one kill"
            lost += unknown
        ended = self._cli(*command)
        assert ended.code == 0, ended.err
        paid = self._watched.paid() - before
        assert paid.total() == len(TEXTS) + lost, "what is lost is paid again once, and nothing else"
        assert set(paid) == set(TEXTS)
        assert max(paid.values()) <= 1 + kills
        self.repaid += lost
        assert compared(folder / "out.jsonl") == self._expected, "the same lines as without a kill"
        check_sums(folder / "out.jsonl")
        assert summary_of(folder / "out.jsonl")["ambiguous"] <= kills * CONCURRENCY
        assert self._cli(*command).code == 0
        assert (self._watched.paid() - before).total() == len(TEXTS) + lost


def test_kill_minus_nine_at_any_moment_of_packed_calls(
    cli: Cli, small_packs: FaultServer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    whole = write_job(tmp_path / "whole")
    options = ("--base-url", small_packs.url, "--prices", whole.with_name("prices.json"))
    assert cli("run", whole, *options).code == 0
    check_sums(tmp_path / "whole" / "out.jsonl")
    loop = KillLoop(cli, Watched(small_packs), tmp_path, compared(tmp_path / "whole" / "out.jsonl"))
    while loop.kills.total() < KILLS:
        loop.one_job(small_packs.url, min(6, KILLS - loop.kills.total()))
        assert loop.jobs < KILLS + 10, f"the moments to kill do not come: {loop.kills}"
    figures = {"kills": dict(loop.kills), "jobs": loop.jobs, "texts repaid": loop.repaid}
    for name, value in figures.items():
        record_property(name, value)
    print(figures)


@pytest.mark.parametrize("mib", [8, 12, 16, 24, 32])
def test_a_disk_that_fills_with_vectors_loses_none_that_was_paid(
    cli: Cli, small_packs: FaultServer, small_disk: Callable[[int], SmallDisk], tmp_path: Path, mib: int
) -> None:
    disk = small_disk(1024 * mib)
    watched = Watched(small_packs)
    job = write_job(tmp_path / "job", dimensions=3_072)
    command = ("run", job, "--base-url", small_packs.url)
    full = disk.run(cli, *command, "--store", f"sqlite:///{disk.path / 'store.db'}")
    assert full.code in (0, 74), full.err
    paid = watched.paid().total()
    print({"mib": mib, "code": full.code, "paid": paid})
    if full.code == 74:
        assert "disk" in full.err
        assert "space" in full.err
        assert not (tmp_path / "job" / "out.jsonl").exists()
    assert answers_in(disk.saved / "store.db", tmp_path / "copy") == paid
    ended = cli(*command, "--store", f"sqlite:///{disk.saved / 'store.db'}")
    assert ended.code == 0, ended.err
    assert watched.paid() == Counter(TEXTS), "not one is paid again"
    summary = summary_of(tmp_path / "job" / "out.jsonl")
    assert summary["rows"]["ok"] == len(TEXTS)
    assert summary["ambiguous"] == 0


@pytest.mark.parametrize("mib", [34, 40])
def test_no_more_is_asked_at_once_than_the_disk_can_take(
    cli: Cli, small_disk: Callable[[int], SmallDisk], tmp_path: Path, mib: int
) -> None:
    """An answer of 2,048 vectors takes 12 MiB: two or three are more than what such a disk has kept aside."""
    disk = small_disk(1024 * mib)
    job = write_job(tmp_path / "job", dimensions=1_536, texts=[f"text {n}" for n in range(8_192)])
    with FaultServer(latency=0.05) as server:
        command = ("run", job, "--base-url", server.url)
        full = disk.run(cli, *command, "--store", f"sqlite:///{disk.path / 'store.db'}")
        assert full.code == 74, full.err
        paid = Watched(server).paid()
        assert answers_in(disk.saved / "store.db", tmp_path / "copy") == paid.total() > 0
        ended = cli(*command, "--store", f"sqlite:///{disk.saved / 'store.db'}")
        assert ended.code == 0, ended.err
        assert set(Watched(server).paid().values()) == {1}
