"""A line of a batch's results: its body byte for byte, and everything that real servers leave out or get wrong."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.record import RecordFault
from runner.record.result import ResultLine, parse_result

BODY = b'{"id": "c",  "n":1.50, "u":"\\u00e9", "n":2}'


def line(response: bytes, *, custom_id: bytes = b'"k.0"', error: bytes = b"null") -> bytes:
    return b'{"id":"batch_req_1","custom_id":%b,"response":%b,"error":%b}' % (custom_id, response, error)


def answered(body: bytes = BODY, status: bytes = b"200") -> bytes:
    return b'{"status_code":%b,"request_id":"req_1","body":%b}' % (status, body)


def test_the_body_stays_as_it_was_written() -> None:
    assert parse_result(line(answered())) == ResultLine("k.0", 200, "req_1", BODY)


@pytest.mark.parametrize("text", ["\u2028 \u2029 \u0085", "é 日本 \U0001f600", "\\ud800"])
def test_no_character_of_a_body_is_changed(text: str) -> None:
    body = f'{{"text":"{text}"}}'.encode()

    assert parse_result(line(answered(body))).body == body


def test_members_stand_in_any_order_with_any_white_space() -> None:
    text = b' { "error" : null , "response" : { "body" : {"a" : [1 ,2]} , "request_id":"r", "status_code" : 500 } ,'
    text += b' "custom_id" : "k.0", "more": {"custom_id": "x"} }\r'

    assert parse_result(text) == ResultLine("k.0", 500, "r", b'{"a" : [1 ,2]}')


def test_an_escaped_id_is_read_as_text() -> None:
    assert parse_result(line(answered(), custom_id=b'"k\\u002e0"')).custom_id == "k.0"


@pytest.mark.parametrize("custom_id", [b"null", b"17", b"[]", b'{"a":1}', b"true", b'"\\ud800"'])
def test_an_id_that_is_no_text_is_none(custom_id: bytes) -> None:
    found = parse_result(line(answered(), custom_id=custom_id))

    assert found == ResultLine(None, 200, "req_1", BODY)


def test_an_id_that_is_left_out_is_none() -> None:
    assert parse_result(b'{"response":%b}' % answered()) == ResultLine(None, 200, "req_1", BODY)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (b"null", ResultLine("k.0", None, None, b"")),
        (b'"gone"', ResultLine("k.0", None, None, b"")),
        (b"[]", ResultLine("k.0", None, None, b"")),
        (b"{}", ResultLine("k.0", None, None, b"")),
        (b'{"status_code":null,"request_id":null,"body":null}', ResultLine("k.0", None, None, b"")),
        (b'{"status_code":0,"request_id":"","body":""}', ResultLine("k.0", 0, "", b'""')),
        (b'{"status_code":200,"request_id":7,"body":"text"}', ResultLine("k.0", 200, None, b'"text"')),
        (b'{"status_code":"200","body":{}}', ResultLine("k.0", None, None, b"{}")),
        (b'{"status_code":true,"body":{}}', ResultLine("k.0", None, None, b"{}")),
        (b'{"status_code":200}', ResultLine("k.0", 200, None, b"")),
    ],
)
def test_what_a_server_leaves_out_is_none_or_empty(response: bytes, expected: ResultLine) -> None:
    assert parse_result(line(response)) == expected


def test_a_line_without_a_response_has_its_error_as_it_was_written() -> None:
    error = b'{"code": "batch_expired",  "message": "too late"}'

    assert parse_result(line(b"null", error=error)) == ResultLine("k.0", None, None, b"", error)
    assert parse_result(b'{"custom_id":"k.0","error":%b}' % error).error == error


def test_an_error_beside_an_answer_keeps_both() -> None:
    assert parse_result(line(answered(), error=b'"odd"')) == ResultLine("k.0", 200, "req_1", BODY, b'"odd"')


@pytest.mark.parametrize("word", [b"NaN", b"-Infinity", b"Infinity"])
def test_a_body_with_numbers_that_are_no_json_is_still_an_answer(word: bytes) -> None:
    body = b'{"logprob":%b}' % word

    assert parse_result(line(answered(body))) == ResultLine("k.0", 200, "req_1", body)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (line(answered())[:-30], "invalid_json"),
        (line(answered()) * 2, "invalid_json"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b'"x"', "not_an_object"),
        (line(answered(b'{"a":"\xff"}')), "invalid_utf8"),
        (line(answered(b'{"a":"\x00"}')), "control_character"),
        (line(answered(b'{"a":NaN,}')), "not_a_number"),
        (line(answered(b"[" * 100_000 + b"]" * 100_000)), "too_deep"),
    ],
)
def test_what_is_no_line_says_why(text: bytes, code: str) -> None:
    with pytest.raises(RecordFault) as found:
        parse_result(text)

    assert found.value.code == code


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1), st.integers(0, 999), st.dictionaries(st.text(), JSON, max_size=4), st.booleans())
def test_any_answer_comes_back_whole(
    custom_id: str, status: int, body: dict[str, object], plain: bool
) -> None:
    raw = json.dumps(body, ensure_ascii=plain).encode("utf-8", "surrogatepass")
    shown = json.dumps(custom_id).encode()
    try:
        raw.decode()
    except UnicodeDecodeError:
        return
    found = parse_result(line(answered(raw, str(status).encode()), custom_id=shown))

    assert (found.custom_id, found.status, found.body) == (custom_id, status, raw)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_line_whatever_it_holds_raises_anything_else(text: bytes) -> None:
    try:
        parse_result(text)
    except RecordFault:
        pass


def test_a_line_is_read_within_a_few_microseconds() -> None:
    text = line(answered(b'{"choices":[{"message":{"content":"%b"}}]}' % (b"word " * 100)))
    took = min(_seconds(text, 2_000) for _ in range(5))

    assert took / 2_000 < 20e-6  # 1.5 on a quiet machine


def _seconds(text: bytes, times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        parse_result(text)
    return time.perf_counter() - began
