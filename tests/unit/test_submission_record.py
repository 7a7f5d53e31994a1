"""What the store keeps of a submission comes back as it was, and what goes over the wire is within its bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.remote import Listed
from runner.submission import FILE_PREFIX, TOOL, Look, Stage, Submission

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=64)
IDS = st.text(min_size=1, max_size=40)
TIMES = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 10**6)
SUBMISSIONS = st.builds(
    Submission,
    shard=NAMES,
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    stage=st.sampled_from(Stage),
    attempt=COUNTS,
    file_id=st.none() | IDS,
    files=st.lists(IDS, max_size=4).map(tuple),
    first_file_at=st.none() | TIMES,
    t_send=TIMES,
    since=TIMES,
    due=TIMES,
    tries=COUNTS,
    clean_lists=COUNTS,
    batch_id=st.none() | IDS,
    extras=st.lists(IDS, max_size=4).map(tuple),
    words=st.text(max_size=600),
    run=NAMES,
    look=st.none(),
)


@given(SUBMISSIONS)
def test_a_record_comes_back_from_the_store_as_it_was(sub: Submission) -> None:
    again = Submission.from_json(sub.to_json())

    assert again == sub
    assert type(again.stage) is Stage
    assert (type(again.files), type(again.extras)) == (tuple, tuple)


@given(SUBMISSIONS)
def test_a_list_that_is_being_read_is_begun_again_by_the_next_process(sub: Submission) -> None:
    found = Listed("b1", 1.0, failed=False, file_id="f1", shard=sub.shard, attempt=1)
    reading = sub._replace(look=Look(5.0, "b1", (found,), nameless=True))

    assert Submission.from_json(reading.to_json()) == sub


@given(SUBMISSIONS)
def test_metadata_is_what_the_api_takes(sub: Submission) -> None:
    """16 pairs of text, keys of 64 and values of 512 characters."""
    metadata = sub.metadata

    assert len(metadata) <= 16
    assert all(len(key) <= 64 for key in metadata)
    assert all(type(value) is str and len(value) <= 512 for value in metadata.values())
    assert (metadata["tool"], metadata["shard"], metadata["run"]) == (TOOL, sub.shard, sub.run)
    assert (int(metadata["attempt"]), metadata["sha256"]) == (sub.attempt, sub.sha256)


@given(SUBMISSIONS)
def test_a_file_name_is_plain_and_tells_attempt_from_attempt(sub: Submission) -> None:
    name = sub.filename

    assert name.isascii()
    assert name.isprintable()
    assert "/" not in name
    assert len(name) <= 255
    assert name.startswith(FILE_PREFIX)
    assert name.endswith(".jsonl")
    assert name != sub._replace(attempt=sub.attempt + 1).filename
    assert name != sub._replace(shard=sub.shard + "x").filename
