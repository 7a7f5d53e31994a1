"""What a submission is told by at its server: the name of its file, and the mark of its job and input."""

from __future__ import annotations

import pytest

from runner.submission import Submission, mark_of, shard_of

OURS = Submission("abcdefghjk_0123abcd", "f" * 64, attempt=2)


def test_the_name_of_a_file_of_ours_tells_its_shard() -> None:
    assert shard_of(OURS.filename) == OURS.shard


@pytest.mark.parametrize(
    "name",
    [
        "requests.jsonl",
        "runner_notes.jsonl",
        "runner_abcdefghjk_0123abcd_2.jsonl",
        f"my_{OURS.filename}",
        f"{OURS.filename}.bak",
        OURS.filename.replace("0123abcd", "0123ABCD"),
    ],
)
def test_a_name_that_is_not_exactly_of_our_form_is_not_ours(name: str) -> None:
    assert shard_of(name) is None


def test_the_mark_tells_jobs_and_inputs_apart_and_holds_none_of_them() -> None:
    marks = {mark_of(meaning, sha) for meaning in ("m1", "m2") for sha in ("s1", "s2")}
    assert len(marks) == 4
    assert {len(mark) for mark in marks} == {32}
    assert mark_of("m1", None) == ""


def test_a_submission_without_a_mark_names_none() -> None:
    assert "mark" not in OURS.metadata
    assert OURS._replace(mark="abc").metadata["mark"] == "abc"
    assert Submission.from_json(OURS._replace(mark="abc").to_json()).mark == "abc"
