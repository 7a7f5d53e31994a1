"""Packing: which questions share a request, and that nothing of them is lost or changed on the way."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import packing
from runner.model import Asked, Call, Demand

REQUEST = {"model": "m", "dimensions": 8, "input": "a"}


def packed(texts: list[Any], *, worst: int | None = 5) -> Call:
    parts = [packing.part(REQUEST | {"input": text}) for text in texts]
    return Call(
        asked=tuple(
            Asked(n, n + 1, f"k{n}", 0, packing.weight(part.text))
            for n, part in enumerate(parts)
            if part is not None
        ),
        endpoint="embeddings",
        model="m",
        body=packing.body(REQUEST, texts, base64=True),
        forced_tool=False,
        demand=Demand(100, 0),
        worst_case=worst,
        added_base64=True,
    )


def test_questions_that_differ_in_their_text_alone_go_together() -> None:
    first, second = packing.part(REQUEST), packing.part(REQUEST | {"input": "bb"})
    assert first is not None
    assert second is not None
    assert first.kind == second.kind
    assert (first.text, second.text) == ("a", "bb")


@pytest.mark.parametrize(
    "other",
    [{"model": "n"}, {"dimensions": 9}, {"user": "x"}, {"input": [1, 2]}, {"encoding_format": "float"}],
)
def test_questions_that_differ_in_more_do_not(other: dict[str, Any]) -> None:
    first, second = packing.part(REQUEST), packing.part(REQUEST | other)
    assert first is not None
    assert second is not None
    assert first.kind != second.kind


@pytest.mark.parametrize("given_input", [["a", "b"], [], [[1], [2]], None, 5, [1, "a"], [True]])
def test_what_is_no_single_text_goes_alone(given_input: object) -> None:
    assert packing.part(REQUEST | {"input": given_input}) is None


def test_weights_are_bytes_of_text_or_tokens() -> None:
    assert [packing.weight(text) for text in ("Grüße", [5, 6, 7], "", "\ud800")] == [7, 3, 0, 3]


def test_a_packed_body_is_the_request_with_all_texts_and_asks_for_base64() -> None:
    assert json.loads(packing.body(REQUEST, ["x", "y"], base64=True)) == REQUEST | {
        "input": ["x", "y"],
        "encoding_format": "base64",
    }
    assert json.loads(packing.body(REQUEST, ["x"], base64=False)) == REQUEST | {"input": "x"}


def test_what_the_job_asks_of_the_form_is_kept() -> None:
    asked = REQUEST | {"encoding_format": "float"}
    assert json.loads(packing.body(asked, ["x", "y"], base64=True))["encoding_format"] == "float"


def test_lists_of_tokens_pack_into_a_list_of_lists() -> None:
    assert json.loads(packing.body(REQUEST, [[1, 2], [3]], base64=False))["input"] == [[1, 2], [3]]
    assert json.loads(packing.body(REQUEST, [[1, 2]], base64=False))["input"] == [1, 2]


@given(
    st.lists(st.one_of(st.text(max_size=9), st.lists(st.integers(0, 9), min_size=1, max_size=4)), min_size=2)
)
def test_halves_of_halves_end_with_each_text_alone_once_and_in_order(texts: list[Any]) -> None:
    todo, found = [packed(texts)], []
    while todo:
        call = todo.pop()
        if call.is_packed:
            first, second = packing.halves(call)
            assert first.split_from is second.split_from is not None
            assert first.split_from.size == len(call.asked) == len(first.asked) + len(second.asked)
            assert first.added_base64
            todo += [second, first]
        else:
            found.append((call.asked[0].task_id, orjson.loads(call.body)["input"]))
            assert orjson.loads(call.body)["encoding_format"] == "base64"
            assert call.demand.input_tokens >= 1
    assert found == list(enumerate(texts))


def test_a_text_that_failed_goes_with_fewer_others_each_time_and_then_alone() -> None:
    assert [packing.most_texts(attempts) for attempts in range(6)] == [2048, 256, 32, 4, 1, 1]
    assert packing.most_texts(0, 100) == 100
    assert packing.most_texts(10**6) == 1


def missed(portion: packing.Portion, size: int, times: int) -> int:
    for _ in range(times):
        portion.missed(size)
    return portion.most


def test_a_portion_shrinks_at_the_third_miss_in_a_row_and_then_at_each() -> None:
    portion = packing.Portion(2_048)
    assert missed(portion, 2_048, 2) == 2_048
    assert missed(portion, 2_048, 1) == 256
    assert missed(portion, 2_048, 5) == 256, "those were on their way"
    assert missed(portion, 256, 1) == 32
    assert missed(portion, 1, 9) == 1


def test_an_answer_of_its_size_ends_a_row_of_misses_and_a_small_one_does_not() -> None:
    portion = packing.Portion(2_048)
    portion.answered(2_048)
    missed(portion, 2_000, 2)
    portion.answered(100)
    assert portion.most == 2_048
    assert missed(portion, 2_000, 1) == 250
    whole = packing.Portion(2_048)
    whole.answered(2_048)
    for _ in range(9):
        missed(whole, 2_000, 2)
        whole.answered(1_500)
    assert whole.most == 2_048


def test_a_portion_grows_by_and_by_and_falls_back_to_what_was_answered() -> None:
    portion = packing.Portion(2_048)
    missed(portion, 800, 3)
    assert portion.most == 100
    for _ in range(packing.PATIENCE):
        assert portion.most == 100
        portion.answered(100)
    assert missed(portion, 200, 1) == 100
    for _ in range(2 * packing.PATIENCE):
        assert portion.most == 100
        portion.answered(90)
    assert portion.most == 200


def test_a_half_is_bounded_by_its_own_bytes_and_both_hold_what_the_whole_did() -> None:
    asked = tuple(Asked(n, n, None, 0, 100) for n in range(4))
    texts = ["a" * 100, "\ud800" * 20, "b" * 100, "c" * 100]
    call = Call(
        asked=asked,
        endpoint="embeddings",
        model="m",
        body=packing.body({"model": "m"}, texts, base64=True),
        forced_tool=False,
        demand=Demand(400, 0),
        worst_case=1_000_000,
    )
    first, second = packing.halves(call, refused=False)
    assert [json.loads(one.body)["input"] for one in (first, second)] == [texts[:2], texts[2:]]
    assert first.split_from is second.split_from is None
    for half in (first, second):
        assert half.worst_case is not None
        assert len(half.body) / len(call.body) <= half.worst_case / 1_000_000 < 0.7
