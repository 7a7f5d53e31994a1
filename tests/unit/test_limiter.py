"""How many may be in flight, and how soon the next may start: arithmetic alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.limiter import Pace, Window


def test_a_window_begins_at_its_ceiling() -> None:
    assert Window(64).size == 64


@pytest.mark.parametrize("ceiling", [1, 0, -3])
def test_a_window_lets_one_through_at_least(ceiling: int) -> None:
    window = Window(ceiling)
    for _ in range(10):
        window.refused(window.start())
    assert window.size == 1


def test_refusals_of_one_volley_cut_once() -> None:
    window = Window(64)
    volley = [window.start() for _ in range(64)]
    for one in volley:
        window.refused(one)
    assert window.size == 32
    window.refused(window.start())
    assert window.size == 16


def test_a_full_window_of_answers_brings_one_more() -> None:
    window = Window(64)
    window.refused(window.start())
    for _ in range(34):
        window.success()
    assert window.size == 33


def test_answers_never_pass_the_ceiling() -> None:
    window = Window(8)
    for _ in range(1000):
        window.success()
    assert window.size == 8


@given(st.integers(1, 500), st.lists(st.booleans(), max_size=400))
def test_a_window_stays_between_one_and_its_ceiling(ceiling: int, replies: list[bool]) -> None:
    window = Window(ceiling)
    for good in replies:
        started = window.start()
        if good:
            window.success()
        else:
            window.refused(started)
        assert 1 <= window.size <= ceiling


def test_no_rate_never_waits() -> None:
    pace = Pace(None)
    for _ in range(100):
        pace.take(0.0, 10**9)
    assert pace.wait(0.0) == 0.0


@given(st.integers(1, 100_000), st.lists(st.floats(0, 0.5), min_size=1, max_size=300))
def test_a_pace_lets_through_a_second_more_than_its_rate_at_most(per_minute: int, gaps: list[float]) -> None:
    pace, now, started = Pace(per_minute), 100.0, []
    for gap in gaps:
        now += gap
        now += pace.wait(now)
        pace.take(now, 1)
        started.append(now)
    for first, at in enumerate(started):
        within = sum(at <= one <= at + 10.0 for one in started[first:])
        assert within <= per_minute / 60 * 11.0 + 2


def test_waiting_as_long_as_told_is_enough() -> None:
    pace, now, waited = Pace(600), 0.0, 0
    for _ in range(100):
        wait = pace.wait(now)
        waited += wait > 0
        now += wait
        assert pace.wait(now) == pytest.approx(0.0, abs=1e-9)
        pace.take(now, 1)
    assert waited > 80
    assert 8.5 < now < 10


def test_a_large_amount_delays_the_next() -> None:
    pace = Pace(60_000)
    pace.take(0.0, 30_000)
    assert pace.wait(0.0) == pytest.approx(29.0)


def test_a_pause_saves_up_one_second_and_no_more() -> None:
    pace, burst = Pace(600), 0
    pace.take(0.0, 1)
    while pace.wait(1000.0) <= 0 and burst < 100:
        pace.take(1000.0, 1)
        burst += 1
    assert 10 <= burst <= 12
