"""From a line to the question it asks: the same bytes each time, and every fault of a line at once."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scene import PRICES, request_line

from runner.job import Job, requests_job
from runner.pricing import Prices
from runner.question import Questions, Unaskable, worst_case

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "{{ t }}"}]}


def questions(**fields: Any) -> Questions:
    given_fields: dict[str, Any] = {
        "name": "j",
        "path": Path("/j.yaml"),
        "endpoint": "chat",
        "model": "m",
        "input": None,
        "output": None,
        "request": CHAT,
    }
    return Questions(Job(**given_fields | fields))


REQUESTS = Questions(requests_job("-"))


def codes(asking: Questions, line: bytes) -> list[str]:
    with pytest.raises(Unaskable) as raised:
        asking.ask(line)
    return [code for code, _ in raised.value.faults]


def test_a_record_becomes_a_request_of_the_jobs_model() -> None:
    found = questions().ask('{"t": "Grüße\u2028"}'.encode())

    assert found.body == '{"model":"m","messages":[{"role":"user","content":"Grüße\u2028"}]}'.encode()
    assert (found.model, found.key, found.endpoint.name) == ("m", None, "chat")
    assert found.hash == hashlib.sha256(b"chat\n" + found.body).digest()


def test_a_request_may_name_its_own_model() -> None:
    assert (
        json.loads(questions(request=CHAT | {"model": "other"}).ask(b'{"t": "x"}').body)["model"] == "other"
    )


@given(
    st.dictionaries(
        st.text(max_size=8), st.one_of(st.text(max_size=20), st.integers(), st.booleans()), max_size=6
    ),
    st.text(max_size=30),
)
def test_the_same_line_asks_the_same_whatever_else_it_holds(others: dict[str, object], text: str) -> None:
    others = {name: value for name, value in others.items() if name not in ("t", "result", "error")}
    line = json.dumps({"t": text} | others).encode()
    other = json.dumps(others | {"t": text}, ensure_ascii=False).encode()

    assert questions().ask(line).hash == questions().ask(other).hash


def test_the_endpoint_is_part_of_the_question() -> None:
    one = questions(endpoint="responses", request={"input": "x"}).ask(b"{}")
    other = questions(endpoint="embeddings", request={"input": "x"}).ask(b"{}")
    assert one.body == other.body
    assert one.hash != other.hash


@pytest.mark.parametrize(("value", "key"), [('"a"', "a"), ("7", "7"), ('"\\u00e9"', "é")])
def test_a_key_is_text_or_integer(value: str, key: str) -> None:
    assert questions(key="id").ask(f'{{"id": {value}, "t": "x"}}'.encode()).key == key


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"t": "x"}', "missing_key"),
        (b'{"t": "x", "id": null}', "bad_key"),
        (b'{"t": "x", "id": 1.5}', "bad_key"),
        (b'{"t": "x", "id": ""}', "bad_key"),
        (b'{"t": "x", "id": true}', "bad_key"),
        (b'{"id": 1}', "missing_field"),
        (b'{"id": 1, "t": null}', "null_field"),
        (b'{"id": 1, "t": "x", "result": 0}', "field_taken"),
        (b'{"id": 1, "t": "x", "error": 0}', "field_taken"),
        (b"[1]", "not_an_object"),
        (b'{"id": 1', "invalid_json"),
        (b'{"id": "\xff"}', "invalid_utf8"),
        (b'{"id": NaN}', "not_a_number"),
    ],
)
def test_what_is_wrong_with_a_record(line: bytes, code: str) -> None:
    assert codes(questions(key="id"), line) == [code]


def test_every_fault_of_a_line_is_told_with_its_key() -> None:
    with pytest.raises(Unaskable) as raised:
        questions(key="id").ask(b'{"id": 7, "result": 1, "error": 2}')

    assert [code for code, _ in raised.value.faults] == ["field_taken", "field_taken", "missing_field"]
    assert raised.value.key == "7"
    assert [fault.line for fault in raised.value.at(12)] == [12, 12, 12]


def test_a_kept_part_without_the_taken_field_is_no_clash() -> None:
    assert questions(keep=("t",)).ask(b'{"t": "x", "result": 1}').body


def test_a_fault_never_repeats_what_the_row_holds() -> None:
    for line in (b'{"t": null, "s": "my secret"}', b'{"s": "my secret"', b'{"s": "my secret", "s2": 1e}'):
        with pytest.raises(Unaskable) as raised:
            questions().ask(line)
        assert "secret" not in str(raised.value)


def test_data_is_never_a_template() -> None:
    found = questions().ask(b'{"t": "{{ 7 * 7 }}{% for x in y %}"}')
    assert json.loads(found.body)["messages"][0]["content"] == "{{ 7 * 7 }}{% for x in y %}"


def test_a_schema_goes_into_the_body_and_so_into_the_question() -> None:
    plain, structured = questions(), questions(schema={"type": "object"})
    assert b"json_schema" in structured.ask(b'{"t": "x"}').body
    assert plain.ask(b'{"t": "x"}').hash != structured.ask(b'{"t": "x"}').hash


def test_a_streaming_request_is_refused() -> None:
    assert codes(questions(request=CHAT | {"stream": True}), b'{"t": "x"}') == ["stream_unsupported"]
    assert codes(REQUESTS, request_line("a", stream=True)) == ["stream_unsupported"]


def test_a_forced_tool_is_known_from_the_rendered_request() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    asking = questions(request=CHAT | {"tools": tools, "tool_choice": "{{ c }}"})
    forced = json.dumps({"t": "x", "c": {"type": "function", "function": {"name": "f"}}}).encode()

    assert asking.ask(forced).forced_tool
    assert not asking.ask(b'{"t": "x", "c": "auto"}').forced_tool


# The Batch API's own format


def test_a_request_is_sent_byte_for_byte() -> None:
    body = b'{ "model":"m" ,"messages":[{"role":"user","content":"\\u00e9\\/"}],"temperature":1.0e0, "seed":1,"seed":2}'
    found = REQUESTS.ask(
        b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":' + body + b"}"
    )

    assert found.body == body
    assert (found.key, found.model) == ("a", "m")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/v1/chat/completions", "chat"),
        ("/chat/completions", "chat"),
        ("/v1/responses", "responses"),
        ("/v1/embeddings", "embeddings"),
    ],
)
def test_the_url_names_the_endpoint(url: str, name: str) -> None:
    line = request_line("a", input="x").replace(b"/v1/chat/completions", url.encode())
    assert REQUESTS.ask(line).endpoint.name == name


def test_an_url_that_is_not_asked_yet_is_told_with_those_that_are() -> None:
    with pytest.raises(Unaskable, match="/v1/chat/completions, /v1/embeddings, /v1/responses"):
        REQUESTS.ask(request_line("a").replace(b"/v1/chat/completions", b"/v1/moderations"))


def test_an_empty_request_line_has_every_fault() -> None:
    assert codes(REQUESTS, b"{}") == ["missing_custom_id", "missing_method", "missing_url", "missing_body"]


def test_a_job_asks_one_model_at_one_endpoint_and_a_file_of_requests_any() -> None:
    assert questions().only == ("chat", "m")
    assert REQUESTS.only is None


# The worst case


def worst(line: bytes, prices: Prices = PRICES) -> int | None:
    found = REQUESTS.ask(line)
    return worst_case(found, found.endpoint.demand(found.request, len(found.body)), prices)


def test_the_worst_case_bounds_every_answer() -> None:
    line = request_line("a", "x" * 100, max_completion_tokens=50, n=3)
    found = worst(line)
    assert found is not None
    assert found >= 100 * 10**6 + 3 * 50 * 2 * 10**6
    assert worst(request_line("a", "x" * 100, max_completion_tokens=51, n=3)) == found + 3 * 2 * 10**6


def test_without_a_bound_of_its_own_the_models_counts() -> None:
    found = worst(request_line("a"))
    assert found is not None
    assert found > 1000 * 2 * 10**6


def test_a_token_is_at_least_a_byte() -> None:
    short, wide = worst(request_line("a", "aaaa")), worst(request_line("a", "語語語語"))
    assert short is not None
    assert wide is not None
    assert wide > short


def test_no_price_and_no_bound_have_no_worst_case() -> None:
    assert worst(request_line("a", model="unheard-of")) is None
    assert worst(request_line("a"), Prices.none()) is None
    assert worst(request_line("a", web_search_options={})) is None


EMBED: dict[str, Any] = {"endpoint": "embeddings", "request": {"input": "{{ t }}", "dimensions": 8}}


@pytest.mark.parametrize("value", ["a", "Grüße\u2028", "", [1, 2], ["a", "b"], "\ud800"])
def test_an_input_that_is_read_alone_is_that_of_the_question(value: object) -> None:
    asking = questions(**EMBED)
    assert asking.text_alone is not None
    line = json.dumps({"t": value, "other": 1}).encode()
    assert asking.text_alone(line) == asking.ask(line).request["input"]


@pytest.mark.parametrize(
    "request_",
    [
        CHAT,
        {"input": "the same for all"},
        {"input": "{{ t }}", "user": "{{ u }}"},
        {"input": "{{ t }}", "extra": [{"deep": "{{ t }}"}]},
    ],
)
def test_where_questions_may_differ_in_more_no_input_is_read_alone(request_: dict[str, Any]) -> None:
    endpoint = "chat" if request_ is CHAT else "embeddings"
    assert questions(endpoint=endpoint, request=request_).text_alone is None
    assert REQUESTS.text_alone is None


@pytest.mark.parametrize("line", [b"[]", b"{", b"{}", b'{"t": null}', b'{"t": NaN}', b"\xff"])
def test_an_input_that_cannot_be_read_alone_is_unaskable_for_the_same_reason(line: bytes) -> None:
    asking = questions(**EMBED)
    assert asking.text_alone is not None
    with pytest.raises(Unaskable) as raised:
        asking.text_alone(line)
    assert [code for code, _ in raised.value.faults] == codes(asking, line)


def test_the_worst_case_of_questions_that_share_a_call_is_that_of_all_their_bytes() -> None:
    question = questions(**EMBED).ask(b'{"t": "a"}')
    demand = question.endpoint.demand(question.request, len(question.body))
    alone = worst_case(question, demand, PRICES)
    assert alone is not None
    assert worst_case(question, demand, PRICES, size=3 * len(question.body)) == 3 * alone
