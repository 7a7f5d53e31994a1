"""The queue of a model: what fits beside what is enqueued, and what a refusal for want of room comes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.admission import LONGEST_WAIT, Queue, limit_in

OPENAI = (
    "Enqueued token limit reached for gpt-6-luna in organization org-x. Limit: 90,000 enqueued tokens. "
    "Please try again once some in_progress batches have been completed."
)


def test_the_limit_is_read_from_the_words_of_the_api() -> None:
    assert limit_in(OPENAI) == 90_000
    assert limit_in("token limit exceeded") is None
    assert limit_in("Limit: 0 enqueued tokens") is None


def test_without_a_limit_everything_may_go_in() -> None:
    assert Queue(first_wait=300).room(10**9) is None


@given(st.integers(1, 10**9), st.integers(0, 10**10))
def test_with_a_limit_the_room_and_what_is_enqueued_never_pass_it(limit: int, enqueued: int) -> None:
    room = Queue(first_wait=300, limit=limit).room(enqueued)
    assert room is not None
    assert room == 0 or room + enqueued <= limit


def test_waits_grow_up_to_a_day_and_begin_again_once_a_batch_is_at_work() -> None:
    queue = Queue(first_wait=300)
    waits = [queue.refused("full", tokens=10, beside=5).wait for _ in range(12)]
    assert waits[:3] == [300, 600, 1200]
    assert waits[-1] == LONGEST_WAIT
    queue.admitted(10)
    assert queue.refused("full", tokens=10, beside=5).wait == 300


def test_a_time_that_the_server_names_is_waited_for() -> None:
    assert Queue(first_wait=1).refused("full", tokens=1, beside=1, named_wait=77).wait == 77


def test_a_shard_larger_than_the_named_limit_is_cut_at_once() -> None:
    queue = Queue(first_wait=300)
    full = queue.refused(OPENAI, tokens=5_000_000, beside=0)
    assert full.limit == 90_000
    assert full.cut is not None
    assert full.cut <= 90_000
    assert queue.room(0) == full.cut


def test_a_shard_that_would_fit_waits_and_is_not_cut() -> None:
    full = Queue(first_wait=300).refused(OPENAI, tokens=50_000, beside=60_000)
    assert (full.cut, full.wait) == (None, 300)


@pytest.mark.parametrize("beside", [0, 100])
def test_where_no_limit_is_named_a_shard_alone_in_the_queue_is_halved_at_its_third_refusal(
    beside: int,
) -> None:
    queue = Queue(first_wait=1)
    cuts = [queue.refused("no room", tokens=1000, beside=beside).cut for _ in range(3)]
    assert cuts == [None, None, None if beside else 500]
    assert queue.room(0) == (None if beside else 475)


def test_a_named_limit_that_has_room_is_taken_by_others_and_a_shard_is_cut_only_after_three_waits() -> None:
    queue = Queue(first_wait=300)
    refused = [queue.refused(OPENAI, tokens=50_000, beside=0) for _ in range(3)]
    assert [one.wait for one in refused] == [300, 600, 1200]
    assert [one.cut for one in refused] == [None, None, 25_000]
    assert not any(one.never_fits for one in refused)
    assert queue.room(0) == 23_750


def test_what_was_cut_grows_again_once_batches_are_admitted() -> None:
    queue = Queue(first_wait=1)
    for _ in range(5):
        queue.refused("no room", tokens=1000, beside=0)
    assert queue.room(0) == 475
    for _ in range(2):
        queue.admitted(470)
    assert queue.room(0) == 893


def test_refusals_that_an_earlier_start_met_count() -> None:
    full = Queue(first_wait=300).refused("no room", tokens=1000, beside=0, before=2)
    assert (full.wait, full.cut, full.refusals) == (1200, 500, 3)
