"""The gate: held for all, tried by one, in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from virtual_time import run_virtually, virtual_now

from runner.dispatch.gate import FIRST_HOLD, LONGEST_PROBE, Gate


def gate(random: float = 0.5, longest: float = 600.0) -> Gate:
    return Gate(virtual_now, lambda: random, longest=longest)


def virtually(work: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        run_virtually(work)

    test.__name__ = work.__name__
    return test


@virtually
async def test_an_open_gate_lets_all_in_at_once() -> None:
    one = gate()
    for _ in range(100):
        assert not await one.enter()
    assert virtual_now() == 0.0
    assert one.seconds_left() == 0.0


@virtually
async def test_of_all_who_wait_one_is_the_prober() -> None:
    one = gate()
    one.hold(10.0, prober=False)
    waiting = [asyncio.create_task(one.enter()) for _ in range(20)]
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    assert [task.result() for task in done] == [True]
    assert len(pending) == 19
    assert 10.0 <= virtual_now() <= 11.0
    await asyncio.sleep(3600)
    assert not any(task.done() for task in pending)
    one.release()
    assert await asyncio.gather(*pending) == [False] * 19


@virtually
async def test_a_probe_in_vain_lets_another_try_later() -> None:
    one = gate()
    one.hold(None, prober=False)
    holds = []
    for _ in range(12):
        before = virtual_now()
        assert await one.enter()
        holds.append(virtual_now() - before)
        one.hold(None, prober=True)

    assert holds[0] >= FIRST_HOLD / 2
    assert all(later >= earlier for earlier, later in pairwise(holds))
    assert holds[3] > 3 * holds[0]
    assert LONGEST_PROBE / 2 <= max(holds) <= LONGEST_PROBE


@virtually
async def test_successes_forget_the_failed_probes_by_halves() -> None:
    one = gate()
    for _ in range(4):
        one.hold(None, prober=True)
    for most in (4.0, 2.0, 1.0):
        one.release()
        assert one.is_open
        one.hold(None, prober=False)
        assert one.seconds_left() <= most * FIRST_HOLD


@virtually
async def test_a_time_that_did_not_help_is_lengthened_from_the_second_probe_on() -> None:
    one = gate()
    one.hold(1.0, prober=True)
    assert one.seconds_left() <= 1.1
    for _ in range(5):
        one.hold(1.0, prober=True)
    assert one.seconds_left() > 10.0


@virtually
async def test_replies_from_before_do_not_escalate() -> None:
    one = gate()
    one.hold(None, prober=False)
    first = one.seconds_left()
    for _ in range(5):
        await asyncio.sleep(first / 10)
        one.hold(None, prober=False)
    assert one.seconds_left() == pytest.approx(first / 2)


@virtually
async def test_the_longest_time_that_the_server_names_counts() -> None:
    one = gate(random=0.0)
    for wait in (5.0, 30.0, 1.0):
        one.hold(wait, prober=False)
    assert one.seconds_left() == pytest.approx(30.0)


@virtually
async def test_a_named_time_is_kept_even_beyond_the_longest_probe() -> None:
    one = gate(random=0.99)
    one.hold(500.0, prober=False)
    assert await one.enter()
    assert 500.0 <= virtual_now() <= 501.0


@virtually
async def test_a_named_time_is_kept_by_who_waits_already() -> None:
    one = gate(random=0.0)
    one.hold(5.0, prober=False)
    waiting = asyncio.create_task(one.enter())
    await asyncio.sleep(4.0)
    one.hold(20.0, prober=False)
    assert await waiting
    assert virtual_now() == pytest.approx(24.0)


@virtually
async def test_the_jobs_longest_wait_bounds_a_hold() -> None:
    one = gate(random=1.0, longest=2.0)
    for _ in range(10):
        one.hold(None, prober=True)
    assert one.seconds_left() <= 2.0


@virtually
async def test_a_prober_that_never_sent_lets_another_try_at_once() -> None:
    one = gate()
    one.hold(10.0, prober=False)
    assert await one.enter()
    other = asyncio.create_task(one.enter())
    await asyncio.sleep(1.0)
    assert not other.done()
    before = virtual_now()
    one.give_up_probe()
    assert await other
    assert virtual_now() == before


@virtually
async def test_a_cancelled_wait_leaves_the_gate_to_others() -> None:
    one = gate()
    one.hold(10.0, prober=False)
    first, second = asyncio.create_task(one.enter()), asyncio.create_task(one.enter())
    await asyncio.sleep(1.0)
    first.cancel()
    assert await second
    with pytest.raises(asyncio.CancelledError):
        await first


@virtually
async def test_a_refusal_of_an_older_call_does_not_take_the_probers_place() -> None:
    one = gate(random=0.0)
    one.hold(1.0, prober=False)
    assert await one.enter()
    one.hold(5.0, prober=False)
    other = asyncio.create_task(one.enter())
    await asyncio.sleep(100.0)
    assert not other.done()
    one.release()
    assert not await other
