"""What counts where a server names several times: the exact one, unless they contradict each other."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.classify import retry_wait

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "message", "wait"),
    [
        # Whole seconds cannot say less than one: they are the exact time, rounded up.
        ({"retry-after": "1"}, "Please try again in 10ms.", 0.01),
        ({"retry-after": "1", "retry-after-ms": "20"}, "", 0.02),
        ({"retry-after": "4"}, "Please try again in 3.89s.", 3.89),
        ({"retry-after": "2"}, "Please try again in 1s.", 1.0),
        ({"retry-after": "1", "retry-after-ms": "20"}, "Please try again in 25ms.", 0.025),
        # These are different times, and the longer is asked for.
        ({"retry-after": "30"}, "Please try again in 10ms.", 30.0),
        ({"retry-after": "30", "retry-after-ms": "20"}, "", 30.0),
        ({"retry-after": "1"}, "Please try again in 3.89s.", 3.89),
        ({"retry-after-ms": "20"}, "Please try again in 6m0s.", 360.0),
        # A fraction has not been rounded.
        ({"retry-after": "1.5"}, "Please try again in 1s.", 1.5),
        ({"retry-after": "1", "retry-after-ms": "0"}, "", 1.0),
        # All that the resets say is when a bucket is full, which is later than one call needs.
        ({"retry-after": "1", "x-ratelimit-reset-requests": "59s"}, "try again in 10ms", 0.01),
    ],
)
def test_the_exact_time_counts_unless_another_contradicts_it(
    headers: dict[str, str], message: str, wait: float
) -> None:
    assert retry_wait(headers, message, NOW) == pytest.approx(wait)


@given(st.integers(1, 100_000), st.integers(1, 600))
def test_a_wait_is_never_shorter_than_any_that_was_asked_for_in_earnest(exact: int, seconds: int) -> None:
    wait = retry_wait({"retry-after": str(seconds), "retry-after-ms": str(exact)}, "", NOW)
    assert wait is not None
    assert wait >= exact / 1000
    assert wait > seconds - 1 - 1e-9
