"""How often a batch is looked at, when its end is believed, and when it is named as standing still."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.polling import (
    LONGEST_PAUSE,
    Look,
    hours,
    is_believed,
    pause,
    pause_in_trouble,
    stands_still,
    unheard_of,
)
from runner.remote import RemoteBatch


@given(st.floats(0, 1e7), st.floats(0.01, 3600))
def test_a_pause_grows_with_age_from_the_first_and_has_an_end(age: float, first: float) -> None:
    assert first <= pause(age, first) <= max(first, LONGEST_PAUSE)
    assert pause(age, first) <= pause(age * 2 + 1, first)


def test_a_day_is_looked_at_some_hundred_times_at_most() -> None:
    age, looks = 0.0, 0
    while age < 86_400:
        age += pause(age, 30.0)
        looks += 1
    assert 100 < looks < 200


def test_trouble_is_waited_for_longer_each_time_up_to_five_minutes() -> None:
    waits = [pause_in_trouble(count, 30.0) for count in range(8)]
    assert waits == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0, 300.0, 300.0]
    assert pause_in_trouble(3, 1000.0) == 1000.0


@pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
def test_an_end_without_files_is_believed_at_the_second_look(status: str) -> None:
    ended = RemoteBatch("b", status)
    assert not is_believed(ended, None)
    assert not is_believed(ended, Look("in_progress", None, None))
    assert is_believed(ended, Look.of(ended))
    assert is_believed(ended._replace(output_file_id="f"), None)


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling", "reticulating"])
def test_what_has_not_ended_is_never_believed_to_have(status: str) -> None:
    at_work = RemoteBatch("b", status, output_file_id="f")
    assert not is_believed(at_work, Look.of(at_work))


@pytest.mark.parametrize(
    ("status", "seconds", "expires_in", "expires", "words"),
    [
        ("validating", 3000, None, True, None),
        ("validating", 4000, None, True, "validating for 1h06m"),
        ("cancelling", 1900, None, True, "cancelling for 31m"),
        ("in_progress", 80_000, 100, True, None),
        ("in_progress", 100_000, -7 * 3600, True, "7h00m after the time"),
        ("in_progress", 200_000, None, False, None),
        ("reticulating", 110_000, None, True, "reticulating for 30h33m"),
    ],
)
def test_a_batch_that_stands_still_is_named_with_its_age(
    status: str, seconds: float, expires_in: float | None, expires: bool, words: str | None
) -> None:
    said = stands_still(status, for_seconds=seconds, expires_in=expires_in, expires=expires)
    assert said is None if words is None else words in (said or "")


def test_ages_read_like_ages() -> None:
    assert [hours(one) for one in (0.2, 45, 720, 11_100, 187_200)] == ["1 s", "45 s", "12m", "3h05m", "2d04h"]


def test_a_state_that_nobody_knows_is_named() -> None:
    known = (
        "validating",
        "in_progress",
        "finalizing",
        "completed",
        "failed",
        "expired",
        "cancelling",
        "cancelled",
    )
    assert [unheard_of(one) for one in known] == [""] * len(known)
    assert '"reticulating"' in unheard_of("reticulating")
