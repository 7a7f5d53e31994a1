"""Waits: spread over their span, never negative, never beyond the cap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.backoff import equal_jitter, full_jitter, pause

fractions = st.floats(0, 1, exclude_max=True)
attempts = st.integers(-3, 10_000)
caps = st.floats(0, 86400)


@given(attempts, fractions, caps)
def test_no_wait_is_negative_or_beyond_the_cap(attempt: int, fraction: float, cap: float) -> None:
    for wait in (full_jitter, equal_jitter):
        assert 0 <= wait(attempt, lambda: fraction, cap=cap) <= cap


def test_full_jitter_doubles_its_span_up_to_the_cap() -> None:
    spans = [full_jitter(attempt, lambda: 1.0, cap=10.0) for attempt in range(6)]
    assert spans == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert full_jitter(3, lambda: 0.25, base=0.5, cap=60.0) == 1.0
    assert full_jitter(3, lambda: 0.0, cap=60.0) == 0.0


def test_equal_jitter_is_at_least_half_its_span() -> None:
    assert equal_jitter(0, lambda: 0.0, cap=60.0) == 0.5
    assert equal_jitter(3, lambda: 0.0, cap=60.0) == 4.0
    assert equal_jitter(3, lambda: 0.5, cap=60.0) == 6.0
    assert equal_jitter(50, lambda: 0.0, cap=60.0) == 30.0


@given(attempts, fractions, st.one_of(st.none(), st.floats(-10, 1e9)), caps)
def test_a_pause_is_never_shorter_than_the_server_asks_but_for_the_cap(
    attempt: int, fraction: float, asked: float | None, cap: float
) -> None:
    wait = pause(attempt, lambda: fraction, asked=asked, cap=cap)
    assert 0 <= wait <= cap
    if asked is not None:
        assert wait >= min(max(asked, 0.0), cap)
