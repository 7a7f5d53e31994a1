"""Poison rows end, outages cost no row an attempt: seeded schedules in virtual time, calls side by side."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from runner.backoff import equal_jitter, full_jitter
from runner.outage import Outage, Verdict

ATTEMPTS = 6
MAX_WAIT = 600.0
LONGEST_PROBE = 60.0
CHUNK = 50

Fault = Callable[[int, float, random.Random], str | None]
"""(row, time of the reply, chance) → None for an answer, "500", "503" or "refused"."""


@dataclass
class World:
    """A run of `rows` rows, `concurrency` at a time, against a server with faults."""

    rows: int
    fault: Fault
    seed: int = 0
    concurrency: int = 20
    latency: tuple[float, float] = (0.2, 1.0)
    knows_more: bool = True
    until: float = 1e9
    ok: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    calls: dict[int, int] = field(default_factory=dict)
    closings: int = 0
    now: float = 0.0
    most_rows_kept: int = 0
    fresh: int = 0

    def run(self) -> World:
        chance = random.Random(self.seed)
        outage = Outage()
        waiting: list[tuple[float, int]] = []
        flying: list[tuple[float, int, int, bool]] = []
        attempts = dict.fromkeys(range(self.rows), 0)
        is_open, reopens, failed_probes, probing = True, 0.0, 0, False
        while (waiting or flying or self.fresh < self.rows) and self.now < self.until:
            # As the store does: rows become tasks a few at a time, when no task's turn has come.
            if self.fresh < self.rows and not (waiting and waiting[0][0] <= self.now):
                for row in range(self.fresh, min(self.fresh + CHUNK, self.rows)):
                    heapq.heappush(waiting, (self.now, row))
                self.fresh += CHUNK
            while waiting and waiting[0][0] <= self.now and len(flying) < self.concurrency:
                prober = not is_open and not probing and self.now >= reopens
                if not (is_open or prober):
                    break
                probing = probing or prober
                row = self._probe(waiting, outage) if prober and self.knows_more else None
                if row is None:
                    _, row = heapq.heappop(waiting)
                end = self.now + chance.uniform(*self.latency)
                heapq.heappush(flying, (end, row, outage.answers, prober))
            moments = [flying[0][0]] if flying else []
            if waiting and len(flying) < self.concurrency and not probing:
                moments.append(max(waiting[0][0], 0.0 if is_open else reopens))
            self.now = max(self.now, min(moments))
            if not flying or flying[0][0] > self.now:
                continue
            _, row, since, prober = heapq.heappop(flying)
            self.calls[row] = self.calls.get(row, 0) + 1
            what = self.fault(row, self.now, chance)
            if what is None:
                outage.success(row)
                self.ok.add(row)
                is_open, probing, failed_probes = True, False, 0
                continue
            verdict = outage.failure(
                row,
                outage=what != "500",
                sent=what != "refused",
                since=since if self.knows_more else None,
                remaining=self.rows - len(self.ok) - len(self.failed) if self.knows_more else None,
            )
            if prober:
                probing = False
                failed_probes += 1
            if verdict.close or prober:
                if is_open or prober:
                    self.closings += is_open
                    reopens = self.now + equal_jitter(failed_probes, chance.random, cap=LONGEST_PROBE)
                is_open = False
            if verdict.release and self.knows_more:
                is_open, failed_probes = True, 0
            attempts[row] += verdict.counted
            self.most_rows_kept = max(self.most_rows_kept, len(outage._rows))
            assert outage.strikes(row) <= attempts[row] or not verdict.counted
            if attempts[row] >= ATTEMPTS:
                self.failed.add(row)
                outage.forget(row)
            else:
                due = self.now + full_jitter(attempts[row], chance.random, cap=MAX_WAIT)
                heapq.heappush(waiting, (due, row))
        return self

    def _probe(self, waiting: list[tuple[float, int]], outage: Outage) -> int | None:
        """A row that has never failed, if one waits; the next of the input if there is one."""
        for place, (due, row) in enumerate(waiting):
            if due <= self.now and not outage.failures(row):
                waiting.pop(place)
                heapq.heapify(waiting)
                return row
        if self.fresh < self.rows:
            self.fresh += 1
            return self.fresh - 1
        return None


def down_between(start: float, end: float, what: str) -> Fault:
    return lambda row, now, chance: what if start <= now < end else None


def poison(rows: set[int], what: str) -> Fault:
    return lambda row, now, chance: what if row in rows else None


SEEDS = range(12)


@pytest.mark.parametrize("what", ["500", "503"])
@pytest.mark.parametrize("seed", SEEDS)
def test_poison_rows_among_healthy_ones_end_after_their_attempts(what: str, seed: int) -> None:
    bad = set(random.Random(seed).sample(range(100), 5))
    world = World(100, poison(bad, what), seed).run()
    assert world.failed == bad
    assert world.ok == set(range(100)) - bad
    assert all(world.calls[row] <= ATTEMPTS + 1 for row in bad)
    assert world.now < 600


@pytest.mark.parametrize("what", ["500", "503"])
def test_a_slow_poison_row_that_fails_last_ends_too(what: str) -> None:
    outage = Outage()
    since = outage.answers
    for row in range(100):
        if row != 7:
            outage.success(row)
    assert outage.failure(7, outage=what == "503", since=since) == Verdict(counted=True, close=False)
    for _ in range(5):
        verdict = outage.failure(7, outage=what == "503", since=outage.answers)
        assert verdict == Verdict(counted=True, close=False)
    assert outage.strikes(7) == 6


@pytest.mark.parametrize("what", ["500", "503", "refused"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("concurrency", [4, 50, 400])
def test_ten_minutes_of_outage_from_the_start_cost_no_row_an_attempt(
    what: str, seed: int, concurrency: int
) -> None:
    world = World(300, down_between(0, 600, what), seed, concurrency).run()
    assert world.failed == set()
    assert len(world.ok) == 300
    # The calls in flight when the gate closed, and one probe at a time after that.
    assert sum(world.calls.values()) < 300 + concurrency + 40


@pytest.mark.parametrize("what", ["503", "refused"])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_ten_minutes_of_outage_cost_a_tiny_run_nothing(what: str, rows: int, seed: int) -> None:
    world = World(rows, down_between(0, 600, what), seed).run()
    assert world.failed == set()
    assert len(world.ok) == rows


@pytest.mark.parametrize("what", ["500", "503", "refused"])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_outage_in_the_middle_costs_no_row_an_attempt(what: str, seed: int) -> None:
    start = 3 + seed
    world = World(1000, down_between(start, start + 600, what), seed).run()
    assert world.failed == set()
    assert len(world.ok) == 1000


@pytest.mark.parametrize("what", ["500", "503"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("concurrency", [1, 3, 20])
def test_an_outage_of_a_night_costs_no_row_an_attempt(what: str, seed: int, concurrency: int) -> None:
    world = World(1000, down_between(20, 20 + 10 * 3600, what), seed, concurrency).run()
    assert world.failed == set()
    assert len(world.ok) == 1000


@pytest.mark.parametrize("what", ["500", "503"])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_outage_with_poison_rows_beside_fails_just_the_poison(what: str, seed: int) -> None:
    bad = set(random.Random(seed).sample(range(400), 8))

    def fault(row: int, now: float, chance: random.Random) -> str | None:
        return what if 5 <= now < 605 or row in bad else None

    world = World(400, fault, seed).run()
    assert world.failed == bad


def test_a_lone_row_that_always_gives_500_ends_after_its_attempts() -> None:
    world = World(1, poison({0}, "500")).run()
    assert world.failed == {0}
    assert world.calls[0] == ATTEMPTS
    assert world.closings == 0


def test_a_call_that_never_left_closes_and_never_counts() -> None:
    outage = Outage()
    for _ in range(100):
        assert outage.failure(1, outage=True, sent=False) == Verdict(counted=False, close=True)
    assert outage.strikes(1) == 0
    # The server can be reached again: a 500 is then the row's.
    assert outage.failure(1, outage=False) == Verdict(counted=True, close=False)


@pytest.mark.parametrize("what", ["500", "503"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_brown_out_closes_the_gate_and_wears_no_row_out(what: str, seed: int) -> None:
    def fault(row: int, now: float, chance: random.Random) -> str | None:
        return what if 5 <= now < 305 and chance.random() < 0.5 else None

    world = World(3000, fault, seed).run()
    assert world.failed == set()
    assert world.closings > 3


@pytest.mark.parametrize("seed", range(3))
def test_one_random_fault_in_ten_fails_no_row_and_seldom_closes_the_gate(seed: int) -> None:
    def fault(row: int, now: float, chance: random.Random) -> str | None:
        return ("500", "503")[row % 2] if chance.random() < 0.1 else None

    world = World(20_000, fault, seed, concurrency=100).run()
    assert world.failed == set()
    assert world.closings <= 10
    assert world.most_rows_kept < 400


@pytest.mark.parametrize("knows_more", [True, False])
def test_poison_at_the_end_of_the_file_does_not_hang_for_ever(knows_more: bool) -> None:
    bad = set(range(95, 100))
    for seed in range(6):
        for concurrency in (1, 4):
            world = World(
                100, poison(bad, "503"), seed, concurrency, knows_more=knows_more, until=86400
            ).run()
            assert world.failed == bad


def test_strikes_of_the_first_moments_of_an_outage_are_taken_back_and_not_told_twice() -> None:
    outage = Outage()
    outage.success(100)
    told = [outage.failure(row, outage=False) for row in (1, 2, 3, 4)]
    assert told == [Verdict(counted=True, close=False)] * 4
    assert outage.failure(5, outage=False) == Verdict(counted=False, close=True)
    assert [outage.strikes(row) for row in (1, 2, 3, 4, 5)] == [0] * 5
    for row in range(5, 25):
        outage.success(row)
    assert outage.failure(1, outage=False) == Verdict(counted=False, close=False)
    assert outage.strikes(1) == 1
    outage.success(25)
    assert outage.failure(1, outage=False) == Verdict(counted=True, close=False)
    assert outage.strikes(1) == 2


def test_memory_is_that_of_the_rows_that_are_failing_now() -> None:
    outage = Outage()
    for row in range(5000):
        outage.failure(row, outage=False)
        outage.success(row)
    assert not outage._rows
    assert not outage._streak
    outage.failure(1, outage=False)
    outage.forget(1)
    outage.success(2)
    assert not outage._rows
    assert not outage._streak


@pytest.mark.parametrize("share", [0.2, 0.3, 0.5])
def test_a_run_of_which_a_large_part_is_poison_ends_and_fails_just_the_poison(share: float) -> None:
    chance = random.Random(1)
    bad = {row for row in range(1000) if chance.random() < share}
    world = World(1000, poison(bad, "500"), 1, 50).run()
    assert world.failed == bad
    assert world.now < 86400


@pytest.mark.parametrize("what", ["500", "503"])
def test_asking_five_failed_rows_again_does_not_hang_for_ever_where_they_are_poison(what: str) -> None:
    def fault(row: int, now: float, chance: random.Random) -> str | None:
        return what if row < 5 else None

    world = World(6, fault, 1, concurrency=2).run()
    assert world.failed == set(range(5))
    assert world.now < 2 * 3600
