"""The dispatch loop: in flight never above the window, one prober while held, and a stop that loses nothing.

Claim, send and settle are functions of the test; time is virtual, so that nothing here waits.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import anyio
import pytest
from virtual_time import run_virtually, virtual_now

from runner.api.sending import by_task
from runner.dispatch.feed import Nothing
from runner.dispatch.flight import HANDFUL_BYTES
from runner.dispatch.gate import Gate
from runner.dispatch.landing import Landing
from runner.dispatch.online import Online
from runner.dispatch.wiring import Wiring
from runner.errors import BudgetReached, Interrupted, StoreUnusable
from runner.limiter import Limiter
from runner.limiter.room import BYTES_IN_FLIGHT
from runner.model import ABANDONED, MODEL_GONE, NOT_STARTED, Asked, Call, Demand, Reply, Signal

OK = Reply(200)
DOWN = Reply(503)
FAST = Reply(429)
BAD = Reply(400)


def call(number: int) -> Call:
    return Call(
        asked=(Asked(number, number, None, 0),),
        endpoint="chat",
        model="m",
        body=b"{}",
        forced_tool=False,
        demand=Demand(100, 50),
        worst_case=1,
    )


class Stock:
    """A feed of numbered calls: what is put back comes again at the end."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self.waiting = deque(numbers)
        self.taken: set[int] = set()
        self.later: dict[int, float] = {}

    def next(self, *, to_probe: bool = False) -> Call | Nothing:
        for number, due in list(self.later.items()):
            if due <= virtual_now():
                del self.later[number]
                self.waiting.append(number)
        if self.waiting:
            return call(self.waiting.popleft())
        return Nothing(min(self.later.values()) - virtual_now() if self.later else None)

    def settled(self, one: Call, signal: Signal) -> None:
        if signal.refused_for_speed:
            self.later.pop(one.task_id, None)
            if one.task_id in self.waiting:
                self.waiting.remove(one.task_id)
            self.waiting.appendleft(one.task_id)
        else:
            self.taken.add(one.task_id)

    def answered(self, one: Call) -> None:
        assert one.task_id in self.taken


class Bench:
    """An Online whose claims, sends and settlements are noted in order."""

    def __init__(
        self,
        rows: int,
        reply: Callable[[int, float], Reply] = lambda number, now: OK,
        *,
        window: int = 4,
        latency: float | Callable[[int], float] = 1.0,
        signal: Callable[[Call, Reply], Signal] | None = None,
        requests: int | None = None,
        tokens: int | None = None,
        reserve: Callable[[Call], bool] = lambda one: True,
    ) -> None:
        self.log: list[tuple[str, int, float]] = []
        self.settled: list[tuple[int, Reply]] = []
        self.told: list[tuple[str, float]] = []
        self.in_flight = self.most = 0
        self.stock = Stock(range(1, rows + 1))
        self._reply, self._latency, self._signal = reply, latency, signal or self.usual
        self.gate = Gate(virtual_now, lambda: 0.5, longest=600.0)
        self.limiter = Limiter(requests=requests, tokens=tokens, ceiling=window)
        self.online = Online(
            self.stock,  # type: ignore[arg-type]
            Wiring(claim=self.claim, start=self.start, settle=self.settle, clock=virtual_now),
            gate=self.gate,
            limiter=self.limiter,
            charge=lambda one: max(one.demand.input_tokens, one.demand.max_output or 0),
            reserve=reserve,
            on_budget=lambda: BudgetReached("no more"),
            on_exhausted=lambda seconds: None,
            told=lambda reason, seconds: self.told.append((reason, seconds)),
        )

    async def claim(self, calls: Sequence[Call]) -> list[int]:
        for one in calls:
            self.log.append(("claim", one.task_id, virtual_now()))
        await anyio.sleep(0.001)
        return [1000 + one.task_id for one in calls]

    async def send(self, one: Call) -> Reply:
        assert one.id == 1000 + one.task_id
        self.log.append(("send", one.task_id, virtual_now()))
        reply = self._reply(one.task_id, virtual_now())
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await anyio.sleep(
                self._latency if isinstance(self._latency, float) else self._latency(one.task_id)
            )
        finally:
            self.in_flight -= 1
        return reply

    def start(self, one: Call, landed: Callable[[Reply | BaseException], None]) -> asyncio.Task[Reply]:
        return by_task(self.send(one), landed)

    def settle(self, ended: Sequence[tuple[Call, Reply]]) -> tuple[list[Signal], Awaitable[object]]:
        for one, reply in ended:
            self.log.append(("settle", one.task_id, virtual_now()))
            self.settled.append((one.task_id, reply))
        return [self._signal(one, reply) for one, reply in ended], anyio.sleep(0.001)

    def usual(self, one: Call, reply: Reply) -> Signal:
        if reply in (DOWN, FAST, NOT_STARTED):
            self.stock.waiting.append(one.task_id)
        if reply is FAST:
            return Signal(hold=True, refused_for_speed=True, reason="429")
        if reply is DOWN:
            return Signal(hold=True, reason="503")
        return Signal(healthy=reply in (OK, BAD))

    def times(self, what: str) -> list[float]:
        return [at for kind, _, at in self.log if kind == what]

    def finished(self) -> set[int]:
        return {number for number, reply in self.settled if reply in (OK, BAD)}

    async def run(self, *, grace: float = 25.0) -> None:
        await self.online.run(grace=grace)


def virtually(work: Callable[..., Awaitable[None]]) -> Any:
    def test() -> None:
        run_virtually(work)

    test.__name__, test.__doc__ = work.__name__, work.__doc__
    return test


@virtually
async def test_each_row_is_claimed_then_sent_then_settled_once() -> None:
    bench = Bench(50)
    await bench.run()

    for number in range(1, 51):
        assert [kind for kind, one, _ in bench.log if one == number] == ["claim", "send", "settle"]
    assert bench.stock.taken == set(range(1, 51))
    assert bench.online.in_flight == 0


@virtually
async def test_nothing_to_do_ends_at_once() -> None:
    bench = Bench(0)
    await bench.run()
    assert (bench.log, virtual_now()) == ([], 0.0)


@virtually
async def test_the_window_is_full_and_never_more() -> None:
    bench = Bench(100, window=7)
    await bench.run()
    assert bench.most == 7
    assert virtual_now() < 100 / 7 + 2


@virtually
async def test_a_slow_row_does_not_hold_up_the_others() -> None:
    bench = Bench(40, window=4, latency=lambda number: 100.0 if number == 2 else 1.0)
    await bench.run()
    assert virtual_now() < 103
    assert bench.settled[-1][0] == 2


@virtually
async def test_refusals_for_speed_narrow_the_window() -> None:
    bench = Bench(200, lambda number, now: FAST if 3 <= now < 4 else OK, window=16)
    await bench.run()

    assert bench.finished() == set(range(1, 201))
    opened = min(at for at in bench.times("send") if at > 5)
    soon = [at for at in bench.times("send") if opened <= at < opened + 3]
    assert max(sum(at <= other < at + 0.9 for other in soon) for at in soon) <= 10
    assert bench.most == 16


@virtually
async def test_while_the_gate_is_held_one_prober_is_out_and_nobody_else() -> None:
    bench = Bench(30, lambda number, now: DOWN if now < 200 else OK, window=8)
    await bench.run()

    assert bench.finished() == set(range(1, 31))
    probes = [at for at in bench.times("send") if 5 < at < 200]
    assert 4 <= len(probes) <= 15
    assert all(later - at > 1.0 for at, later in pairwise(probes))
    assert {reason for reason, _ in bench.told} == {"503"}


@virtually
async def test_what_is_held_back_after_its_claim_is_not_sent() -> None:
    bench = Bench(
        20,
        lambda number, now: DOWN if number == 2 and now < 2 else OK,
        window=8,
        latency=lambda number: 0.5 if number == 3 else 1.0,
    )
    slow_claim = bench.claim

    async def claim(calls: Sequence[Call]) -> list[int]:
        if calls[0].task_id == 10:
            await anyio.sleep(0.9)
        return await slow_claim(calls)

    bench.online._wiring = replace(bench.online._wiring, claim=claim)
    await bench.run()

    held_back = [number for number, reply in bench.settled if reply is NOT_STARTED]
    assert held_back == [10]
    assert bench.finished() == set(range(1, 21))
    for number in range(3, 21):
        assert sum(kind == "send" and one == number for kind, one, _ in bench.log) == 1


@virtually
async def test_a_probers_row_error_opens_the_gate() -> None:
    """A server that refuses a row for good does its work."""
    bench = Bench(10, lambda number, now: DOWN if now < 2 else BAD)
    await bench.run()
    assert bench.finished() == set(range(1, 11))
    assert bench.gate.is_open


@virtually
async def test_a_release_opens_the_gate_though_nothing_was_answered() -> None:
    def signal(one: Call, reply: Reply) -> Signal:
        bench.stock.waiting.extend([one.task_id] if reply is NOT_STARTED else [])
        if reply is DOWN:
            return Signal(hold=True, reason="503") if one.task_id < 3 else Signal(release=True)
        return Signal(healthy=reply is OK)

    bench = Bench(6, lambda number, now: DOWN if number <= 3 else OK, window=1, signal=signal)
    await bench.run()
    assert bench.finished() == {4, 5, 6}


@virtually
async def test_a_prober_whose_model_is_gone_proves_nothing_and_costs_no_time() -> None:
    """Nothing was asked: the next one probes at once, and the wait does not grow."""

    def signal(one: Call, reply: Reply) -> Signal:
        if reply is MODEL_GONE:
            return Signal()
        if reply is NOT_STARTED:
            bench.stock.waiting.appendleft(one.task_id)
            return Signal()
        return bench.usual(one, reply)

    bench = Bench(
        302,
        lambda number, now: DOWN if number == 1 and now < 1 else MODEL_GONE if number < 302 else OK,
        signal=signal,
    )
    await bench.run()
    assert 302 in bench.finished()
    assert virtual_now() < 600


@virtually
async def test_a_stop_starts_nothing_more_and_waits_for_what_is_in_flight() -> None:
    bench = Bench(100, window=5, latency=10.0)

    async def stop_later() -> None:
        await anyio.sleep(12.0)
        assert bench.online.in_flight == 5
        bench.online.stop(Interrupted("Ctrl-C"))
        bench.online.stop(Interrupted("again"))

    async with anyio.create_task_group() as group:
        group.start_soon(stop_later)
        with pytest.raises(Interrupted, match="Ctrl-C"):
            await bench.run()

    assert max(bench.times("send")) < 12.0
    assert len(bench.settled) == len(bench.times("send")) == 6
    assert all(reply is OK for _, reply in bench.settled)
    assert virtual_now() < 21


@virtually
async def test_after_the_grace_what_is_in_flight_is_abandoned_and_settled_so() -> None:
    bench = Bench(3, window=3, latency=lambda number: 1.0 if number == 1 else 900.0)

    async def stop_later() -> None:
        await anyio.sleep(5.0)
        bench.online.stop(Interrupted("SIGTERM"))

    async with anyio.create_task_group() as group:
        group.start_soon(stop_later)
        with pytest.raises(Interrupted):
            await bench.run(grace=20.0)

    assert virtual_now() == pytest.approx(25.0, abs=0.1)
    assert dict(bench.settled) == {1: OK, 2: ABANDONED, 3: ABANDONED}
    assert bench.online.in_flight == 0


@virtually
async def test_a_stop_while_the_gate_is_held_is_obeyed_at_once() -> None:
    bench = Bench(10, lambda number, now: DOWN)

    async def stop_later() -> None:
        await anyio.sleep(500.0)
        bench.online.stop(Interrupted("Ctrl-C"))

    async with anyio.create_task_group() as group:
        group.start_soon(stop_later)
        with pytest.raises(Interrupted):
            await bench.run()
    assert virtual_now() < 502


@virtually
async def test_a_stop_while_waiting_for_a_due_time_is_obeyed_at_once() -> None:
    bench = Bench(0)
    bench.stock.later[7] = 5000.0

    async def stop_later() -> None:
        await anyio.sleep(3.0)
        bench.online.stop(Interrupted("Ctrl-C"))

    async with anyio.create_task_group() as group:
        group.start_soon(stop_later)
        with pytest.raises(Interrupted):
            await bench.run()
    assert virtual_now() == pytest.approx(3.0)


@virtually
async def test_a_due_time_is_waited_for() -> None:
    bench = Bench(1)
    bench.stock.later[7] = 300.0
    await bench.run()
    assert [(one, round(at)) for kind, one, at in bench.log if kind == "send"] == [(1, 0), (7, 300)]


@virtually
async def test_a_signal_to_stop_ends_the_dispatch_with_no_call_more_than_was_in_flight() -> None:
    bench = Bench(
        100,
        window=6,
        latency=lambda number: 1.0 + number * 0.01,
        signal=lambda one, reply: (
            Signal(stop=BudgetReached("money")) if one.task_id == 8 else Signal(healthy=True)
        ),
    )
    with pytest.raises(BudgetReached, match="money"):
        await bench.run()

    ended = next(at for kind, one, at in bench.log if (kind, one) == ("settle", 8))
    assert [at for at in bench.times("send") if at > ended] == []
    assert len([reply for _, reply in bench.settled if reply is OK]) == len(bench.times("send"))


@virtually
async def test_a_budget_that_does_not_fit_waits_for_what_is_in_flight_then_stops() -> None:
    left = [3]

    def reserve(one: Call) -> bool:
        if not left[0]:
            return False
        left[0] -= 1
        return True

    def signal(one: Call, reply: Reply) -> Signal:
        left[0] += one.task_id in (1, 2)
        return Signal(healthy=True)

    bench = Bench(20, window=10, reserve=reserve, signal=signal)
    with pytest.raises(BudgetReached):
        await bench.run()

    assert bench.finished() == {1, 2, 3, 4, 5}
    assert bench.most == 3


@virtually
async def test_a_pace_of_requests_is_kept() -> None:
    bench = Bench(60, requests=120, window=50)
    await bench.run()
    assert 28 <= max(bench.times("send")) <= 31


@virtually
async def test_a_pace_of_tokens_counts_what_may_be_answered() -> None:
    bench = Bench(40, tokens=60 * 100, window=50)
    await bench.run()
    assert 37 <= max(bench.times("send")) <= 41


@virtually
async def test_a_store_that_fails_ends_the_dispatch_and_settles_what_is_out() -> None:
    bench = Bench(20, window=4, latency=lambda number: 1.0 if number < 3 else 50.0)
    claims = bench.claim

    async def claim(calls: Sequence[Call]) -> list[int]:
        if calls[0].task_id == 6:
            await anyio.sleep(2.0)
            raise StoreUnusable("disk")
        return await claims(calls)

    bench.online._wiring = replace(bench.online._wiring, claim=claim)
    with pytest.raises(StoreUnusable, match="disk"):
        await bench.run()

    assert dict(bench.settled) == {1: OK, 2: OK} | dict.fromkeys((3, 4, 5), ABANDONED)


@virtually
async def test_a_claim_that_is_under_way_when_the_grace_ends_is_still_settled() -> None:
    """A task that the store knows as taken is never left so by a stop."""
    bench = Bench(1, latency=0.1)
    claims = bench.claim

    async def claim(calls: Sequence[Call]) -> list[int]:
        await anyio.sleep(10.0)
        return await claims(calls)

    bench.online._wiring = replace(bench.online._wiring, claim=claim)

    async def stop_later() -> None:
        await anyio.sleep(1.0)
        bench.online.stop(Interrupted("stop"))

    async with anyio.create_task_group() as group:
        group.start_soon(stop_later)
        with pytest.raises(Interrupted):
            await bench.run(grace=2.0)

    assert bench.settled == [(1, NOT_STARTED)]


@virtually
async def test_a_call_that_cannot_even_be_started_ends_the_dispatch() -> None:
    bench = Bench(20, window=4)

    def start(one: Call, landed: Callable[[Reply | BaseException], None]) -> None:
        raise ValueError("no such path")

    bench.online._wiring = replace(bench.online._wiring, start=start)
    with pytest.raises(ValueError, match="no such path"):
        await bench.run()


@virtually
async def test_what_is_known_before_a_call_is_sent_settles_it_at_once() -> None:
    bench = Bench(20, window=4, signal=lambda one, reply: Signal())

    def start(one: Call, landed: Callable[[Reply | BaseException], None]) -> None:
        landed(MODEL_GONE)

    bench.online._wiring = replace(bench.online._wiring, start=start)
    await bench.run()
    assert dict(bench.settled) == dict.fromkeys(range(1, 21), MODEL_GONE)


class Held:
    """A bound on the answers in memory that notes what it is told."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.told: list[int] = []
        self.is_full = is_full

    def wait(self, size: int) -> None:
        self.told.append(size)


def answering(body: Callable[[int], bytes], rows: int, window: int, **wired: Any) -> Bench:
    """A bench whose server answers with bodies of any size."""
    bench = Bench(
        rows,
        lambda number, now: Reply(200, body=body(number)),
        window=window,
        signal=lambda one, reply: Signal(healthy=True),
    )
    bench.online._wiring = replace(bench.online._wiring, **wired)
    bench.online._landing = Landing(bench.online._wiring.hold)
    return bench


@virtually
async def test_every_answer_waits_from_its_coming_until_it_is_stored() -> None:
    held = Held()
    await answering(lambda number: b"x" * number, 6, 3, hold=held).run()

    assert sum(max(0, after - before) for before, after in pairwise([0, *held.told])) == 21
    assert held.told[-1] == 0
    assert min(held.told) == 0


@virtually
async def test_what_cannot_be_stored_waits_no_more() -> None:
    held = Held()

    def settle(ended: Sequence[tuple[Call, Reply]]) -> tuple[list[Signal], Awaitable[object]]:
        async def fails() -> None:
            raise StoreUnusable("broken")

        return [Signal(healthy=True) for _ in ended], fails()

    with pytest.raises(StoreUnusable):
        await answering(lambda number: b"x", 3, 3, hold=held, settle=settle).run()
    assert held.told[-1] == 0


@virtually
async def test_large_answers_are_more_at_once_while_there_is_room_for_them() -> None:
    large = b"x" * (BYTES_IN_FLIGHT // 2 - 100)
    for is_full, most in ((True, 2), (False, 8)):
        bench = answering(lambda number: large, 24, 100, hold=Held(is_full=is_full))
        await bench.run()
        assert (bench.most >= most) if not is_full else (bench.most == most)
        assert len(bench.settled) == 24


@virtually
async def test_large_answers_settle_one_by_one() -> None:
    for size, together in ((1, 8), (HANDFUL_BYTES // 3, 3), (HANDFUL_BYTES, 1)):
        groups: list[int] = []

        def settle(
            ended: Sequence[tuple[Call, Reply]], groups: list[int] = groups
        ) -> tuple[list[Signal], Awaitable[object]]:
            groups.append(len(ended))
            return [Signal(healthy=True) for _ in ended], anyio.sleep(0.001)

        body = b"x" * size
        await answering(lambda number, body=body: body, 17, 8, settle=settle).run()  # type: ignore[misc]
        assert (sum(groups), max(groups)) == (17, together)
