"""Records: values for templates, original bytes for everything else."""

import json
import sys
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner import record
from runner.record import RecordFault
from runner.record.spans import _scan

# A busy machine is no fault of the code.
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
REQUEST = (
    b'{"custom_id": "row-1", "method": "POST", "url": "/v1/responses", '
    b'"body": {"model": "gpt-6-luna", "input": 1.50}}'
)
PUNCTUATION = [
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b" ",
    b"\r",
    b"\0",
    b"\t",
    b"\xff",
    b"0",
    b"-",
    b".",
    b"e",
]
LONE_SURROGATE = rb'"\ud800"'
HUGE = b"9" * 5000

strings = st.text(st.characters(codec="utf-8"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(strings, values, max_size=6)


@st.composite
def written(draw: st.DrawFn) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """An object as somebody might write it, and the raw keys and values it was written from."""
    space = st.sampled_from([b"", b" ", b"\t", b"  ", b"\r"])
    quirks = st.sampled_from(
        [b"-0", b"1e400", b"1.50", b"1E+5", b"123456789012345678901", rb'"\ud800\/\u0041"', b"[ ]"]
    )

    def text(value: object) -> bytes:
        return json.dumps(value, ensure_ascii=draw(st.booleans())).encode()

    raw_value = st.builds(text, values) | quirks
    pairs = draw(
        st.lists(
            st.tuples(st.builds(text, st.sampled_from(["a", "é", '"', "\\", "a b"])), raw_value), max_size=5
        )
    )
    parts = [
        draw(space) + key + draw(space) + b":" + draw(space) + value + draw(space) for key, value in pairs
    ]
    return draw(space) + b"{" + (b",".join(parts) or draw(space)) + b"}" + draw(space), pairs


def fault_of(line: bytes) -> RecordFault:
    with pytest.raises(RecordFault) as caught:
        record.parse(line)
    return caught.value


@given(objects)
@settings(CALM)
def test_parse_reads_what_json_writes(value: dict[str, object]) -> None:
    assert record.parse(json.dumps(value).encode()) == value
    assert record.parse(json.dumps(value, ensure_ascii=False).encode()) == value


@given(objects)
@settings(CALM)
def test_dumps_and_parse_are_inverse(value: dict[str, object]) -> None:
    assert record.parse(record.dumps(value)) == value


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A request line with a few bytes put in, taken out or changed."""
    line = bytearray(
        REQUEST.replace(b"1.50", rb'[1.50, -2e5, "\u00e9\n\\", {"b": [true, null]}, "\xc3\xa9"]')
    )
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(line) - 1))
        line[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=1) | st.sampled_from(PUNCTUATION))
    return bytes(line)


def is_json_object(data: bytes) -> bool:
    """What the standard decoder says, which takes NaN and Infinity for numbers and JSON does not."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        return isinstance(json.loads(data.decode(), parse_constant=refuse), dict)
    except ValueError:
        return False


@given(st.binary(max_size=30) | spoilt())
@settings(CALM, max_examples=1000)
def test_what_is_json_is_read_and_nothing_else(data: bytes) -> None:
    def read(how: Callable[[bytes], object]) -> str | None:
        try:
            how(data)
        except RecordFault as fault:
            return fault.code
        return None

    of_record, of_request = read(record.parse), read(record.parse_request)
    assert (of_record is None) == is_json_object(data)
    if of_record is None:
        assert of_request is None or of_request.startswith(("missing_", "bad_", "body_not"))
    else:
        assert of_request == of_record


def test_numbers_are_exact() -> None:
    big = 2**70
    parsed = record.parse(
        b'{"a": %d, "b": 1e400, "c": -0.0, "d": 18446744073709551616, "e": %s}' % (big, HUGE)
    )
    assert parsed["a"] == big
    assert isinstance(parsed["a"], int)
    assert parsed["b"] == Decimal("1e400")
    assert str(parsed["c"]) == "-0.0"
    assert parsed["d"] == 2**64
    assert parsed["e"] == Decimal(HUGE.decode())
    assert record.parse(record.dumps(parsed)) == parsed


def test_lone_surrogates_pass() -> None:
    parsed = record.parse(b'{"a": %s, "\xc3\xa9": "\xc3\xa9"}' % LONE_SURROGATE)
    assert parsed == {"a": "\ud800", "é": "é"}
    assert record.dumps(parsed) == b'{"a":"\\ud800","\xc3\xa9":"\xc3\xa9"}'


def test_the_last_of_repeated_keys_counts() -> None:
    assert record.parse(b'{"a":1,"a":2}') == {"a": 2}
    assert record.parse(b'{"a":"\\ud800","a":2}') == {"a": 2}


def test_an_escaped_nul_is_allowed() -> None:
    assert record.parse(b'{"a":"\\u0000"}') == {"a": "\0"}


@pytest.mark.parametrize(
    ("line", "code", "offset"),
    [
        (b"[1]", "not_an_object", None),
        (b"null", "not_an_object", None),
        (b'"text"', "not_an_object", None),
        (b"1e400", "not_an_object", None),
        (b'{"a":NaN}', "not_a_number", 5),
        (b'{"NaN":"NaN","a":[-Infinity]}', "not_a_number", 18),
        (b'{"a":"\xe9t\xe9"}', "invalid_utf8", 6),
        (b'{"a":"\xed\xa0\x80"}', "invalid_utf8", 6),
        (b'{"a":"\xc0\x80"}', "invalid_utf8", 6),
        (b'{"\xff":1}', "invalid_utf8", 2),
        (b'{"a":"x\x00"}', "control_character", 7),
        (b'{"a":"x\ty"}', "control_character", 7),
        (b'{"a":"\xc3\xa9\ty"}', "control_character", 8),
        (b'{"a":\x0b1}', "control_character", 5),
        # Python 3.13 points at the comma, those before it at what comes instead of a field.
        (b'{"a":1,}', "invalid_json", 6 if sys.version_info >= (3, 13) else 7),
        (b'{"a":01}', "invalid_json", 6),
        (b'{"\xc3\xa9":tru}', "invalid_json", 6),
        (b'{"a":"\\x"}', "invalid_json", 6),
        (b'{"a":1}{"b":2}', "invalid_json", 7),
        (b'{"a":1}\r{"b":2}', "invalid_json", 8),
        (b'{"a":"cut', "invalid_json", 5),
        (b'{"a":1', "invalid_json", 6),
        (b"\xef\xbb\xbf{}", "invalid_json", 0),
        (b"{'a':1}", "invalid_json", 1),
        (b'{"a":' * 100_000, "too_deep", None),
        (b"[" * 100_000 + b"]" * 100_000, "too_deep", None),
    ],
)
def test_faults_have_code_and_byte_offset(line: bytes, code: str, offset: int | None) -> None:
    fault = fault_of(line)
    assert (fault.code, fault.offset) == (code, offset)
    with pytest.raises(RecordFault) as of_request:
        record.parse_request(line)
    assert of_request.value.code == code


def test_messages_say_what_to_do() -> None:
    assert "NUL byte" in fault_of(b'{"a":"\x00"}').message
    assert "\\u0000" in fault_of(b'{"a":"\x00"}').message
    assert "Latin-1" in fault_of(b'{"a":"\xe9"}').message
    assert "cut short" in fault_of(b'{"a":"long te').message
    assert "CR alone" in fault_of(b'{"a":1}\r{"b":2}').message
    assert "one record" in fault_of(b'{"a":1}{"b":2}').message


@given(st.text(st.characters(codec="ascii", categories=["L"]), min_size=6, max_size=9))
@settings(CALM)
def test_messages_never_repeat_the_text(secret: str) -> None:
    canary = f"ZQ{secret}ZQ"
    lines = [
        f'{{"a":"{canary}',
        f'{{"a":"\\{canary}"}}',
        f'{{"a":{canary}}}',
        f'{{"a":"{canary}\t"}}',
        f"{{{canary}:1}}",
    ]
    for line in lines:
        assert canary not in fault_of(line.encode()).message


def test_dumps_refuses_what_json_cannot_say() -> None:
    for bad in (
        float("nan"),
        {"a": [None, float("inf")]},
        [float("nan"), "\ud800"],
        Decimal("NaN"),
        [2**70, float("inf")],
    ):
        with pytest.raises(RecordFault, match="NaN"):
            record.dumps(bad)
    for other in ({1: 2}, {1: "\ud800"}, object(), {"a": b"bytes"}):
        with pytest.raises(TypeError):
            record.dumps(other)
    nest: object = None
    for _ in range(sys.getrecursionlimit() * 2):
        nest = [nest]
    with pytest.raises(RecordFault, match="deep"):
        record.dumps(nest)


def test_dumps_goes_deeper_than_orjson() -> None:
    line = b'{"a":' + b"[" * 300 + b"]" * 300 + b"}"
    assert record.dumps(record.parse(line)) == line


def test_dumps_null_is_not_mistaken_for_nan() -> None:
    assert record.dumps({"a": None, "b": ("null", 1.5)}) == b'{"a":null,"b":["null",1.5]}'


@given(written())
@settings(CALM, max_examples=300)
def test_members_keep_their_bytes(case: tuple[bytes, list[tuple[bytes, bytes]]]) -> None:
    line, pairs = case
    record.parse(line)
    assert record.members(line) == pairs
    assert _scan(line) == pairs


@given(written(), st.sets(st.sampled_from(["a", "é", '"', "\\", "a b", "none"])))
@settings(CALM, max_examples=300)
def test_kept_fields_keep_their_bytes(case: tuple[bytes, list[tuple[bytes, bytes]]], keep: set[str]) -> None:
    line, pairs = case
    result = (b'"result"', b'{"output":1.50}')
    extra = b":".join(result)
    every = record.keep_fields(line, None, extra)
    assert record.members(every) == [*pairs, result]
    some = record.keep_fields(line, frozenset(keep), extra)
    assert record.members(some) == [pair for pair in pairs if json.loads(pair[0]) in keep] + [result]
    for text in (every, some):
        record.parse(text)
        assert b"\r" not in text
        assert b"\n" not in text


def test_keep_all_splices() -> None:
    assert record.keep_fields(b'{"a": 1.50, "a": -0}', None, b'"r":1') == b'{"a": 1.50, "a": -0,"r":1}'
    assert record.keep_fields(b" { } \t", None, b'"r":1') == b'{"r":1}'
    assert record.keep_fields(b'{"a":{}}', None, b'"r":1') == b'{"a":{},"r":1}'
    assert record.keep_fields(b'{"a":[1,\r2]}', frozenset({"a"}), b'"r":1') == b'{"a":[1, 2],"r":1}'


def test_members_of_something_else() -> None:
    for line in (b"1", b'{"a', b'{"a":[1', b'{"a":', b'{"a"'):
        with pytest.raises(RecordFault):
            record.members(line)
    assert record.members(b"{}") == []


def test_has_field_knows_escaped_names() -> None:
    line = b'{"r\\u0065sult": 1, "body": {"inner": 2}}'
    assert record.has_field(line, "result")
    assert not record.has_field(line, "inner")
    assert record.has_field(record.parse(line), "result")
    assert not record.has_field(record.parse(line), "inner")


def test_key_text() -> None:
    assert record.key_text("a b ") == "a b "
    assert record.key_text(1) == "1"
    assert record.key_text(-(2**70)) == str(-(2**70))
    for bad in (None, True, 1.0, "", {}, [], Decimal("1e400"), "\ud800"):
        with pytest.raises(RecordFault) as caught:
            record.key_text(bad)
        assert caught.value.code == "bad_key"


def test_a_request_line_keeps_its_bytes() -> None:
    request = record.parse_request(REQUEST)
    assert request.custom_id == b'"row-1"'
    assert (request.key, request.method, request.url, request.model) == (
        "row-1",
        "POST",
        "/v1/responses",
        "gpt-6-luna",
    )
    assert request.body == b'{"model": "gpt-6-luna", "input": 1.50}'
    assert not request.stream


@pytest.mark.parametrize(
    "value",
    [
        LONE_SURROGATE,
        b"1e400",
        HUGE,
        b"-0",
        b"1.50",
        b'"\\u00e9\\/"',
        b'{"a":1,"a":2}',
        b"[ 1 , 2 ]",
        "\u2028é".encode().join([b'"'] * 2),
    ],
)
def test_every_legal_value_passes_in_a_body(value: bytes) -> None:
    body = b'{"x": %s,  "model": "m", "stream": true, "model": "n"}' % value
    line = b' {"extra": 1, "url":"/v1/x","custom_id" : "\\u0061" ,"method":"POST", "body" : %s }' % body
    request = record.parse_request(line)
    assert request.body == body
    assert request.custom_id == rb'"\u0061"'
    assert (request.key, request.model, request.stream) == ("a", "n", True)
    assert record.parse_checked_request(line) == ("a", "/v1/x", body)


@pytest.mark.parametrize(
    ("raw", "key"),
    [(b"7", "7"), (b"-0", "0"), (b'" a"', " a"), (b"123456789012345678901", "123456789012345678901")],
)
def test_ids_as_text(raw: bytes, key: str) -> None:
    request = record.parse_request(REQUEST.replace(b'"row-1"', raw))
    assert (request.custom_id, request.key) == (raw, key)
    assert record.parse_checked_request(REQUEST.replace(b'"row-1"', raw))[0] == key


@pytest.mark.parametrize(
    ("old", "new", "codes"),
    [
        (b'"custom_id": "row-1", ', b"", ["missing_custom_id"]),
        (b'"row-1"', b"null", ["missing_custom_id"]),
        (b'"row-1"', b'""', ["bad_custom_id"]),
        (b'"row-1"', b"true", ["bad_custom_id"]),
        (b'"row-1"', b"1.0", ["bad_custom_id"]),
        (b'"row-1"', LONE_SURROGATE, ["bad_custom_id"]),
        (b'"method": "POST", ', b"", ["missing_method"]),
        (b'"POST"', b'"GET"', ["bad_method"]),
        (b'"url": "/v1/responses", ', b"", ["missing_url"]),
        (b'"/v1/responses"', b"7", ["bad_url"]),
        (b'"/v1/responses"', b'"https://elsewhere.example/v1"', ["bad_url"]),
        (b'"body"', b'"Body"', ["missing_body"]),
        (b'{"model": "gpt-6-luna", "input": 1.50}', b'"text"', ["body_not_object"]),
        (b'{"model": "gpt-6-luna", "input": 1.50}', b"[]", ["body_not_object"]),
        (b'"model"', b'"modell"', ["missing_model"]),
        (b'"gpt-6-luna"', b'""', ["missing_model"]),
        (b'"gpt-6-luna"', b"3", ["missing_model"]),
        (REQUEST, b'{"custom_id": 1}', ["missing_method", "missing_url", "missing_body"]),
        (REQUEST, b"{}", ["missing_custom_id", "missing_method", "missing_url", "missing_body"]),
    ],
)
def test_all_faults_of_a_request_line_at_once(old: bytes, new: bytes, codes: list[str]) -> None:
    with pytest.raises(RecordFault) as caught:
        record.parse_request(REQUEST.replace(old, new))
    assert [fault.code for fault in caught.value.faults] == codes
    assert caught.value.code == codes[0]
    for fault in caught.value.faults:
        assert fault.message in str(caught.value)


ODD_PARTS = [
    b'"row-1"', b'"gpt-6-luna"', b"1.50", b'"POST"', b'"/v1/responses"', b'"body"', b'"model"', b'"custom_id"',
]  # fmt: skip
ODD_VALUES = [
    b"null", b"7", b"1.0", b"true", b'""', b"[]", b"{}", b"1e400", b"1" * 5000, b'"GET"', b'"\xe9"', b"\x01",
    b'"\\u00e9"', LONE_SURROGATE, b'"model": "m", "model"', b'"stream": 3, "model"', "\"é\"".encode(),
]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(ODD_PARTS), st.sampled_from(ODD_VALUES)), max_size=3))
@settings(CALM, max_examples=500)
def test_a_request_line_and_its_body_are_read_in_one_as_they_are_apart(
    changes: list[tuple[bytes, bytes]],
) -> None:
    line = REQUEST
    for old, new in changes:
        line = line.replace(old, new)

    def apart() -> object:
        found = record.parse_request(line)
        return found.key, found.url, found.body, record.parse(found.body)

    def told(read: Callable[[], object]) -> object:
        try:
            return read()
        except RecordFault as fault:
            return [(one.code, one.message) for one in fault.faults]

    assert told(lambda: record.read_request(line)) == told(apart)


def test_a_cut_request_line_is_a_fault_at_every_byte() -> None:
    for end in range(1, len(REQUEST)):
        with pytest.raises(RecordFault) as caught:
            record.parse_request(REQUEST[:end])
        assert caught.value.code == "invalid_json"
