"""What replies mean: every line of the table of errors, every form of Retry-After, bodies cut anywhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.classify import classify, error_of, retry_wait, shown
from runner.endpoints import ENDPOINTS
from runner.model import Answer, Finding, Kind, Outcome, Reply

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
CHAT = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1790000000,
        "model": "gpt-6-luna",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "billing: the customer was charged twice",
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 120,
            "completion_tokens": 9,
            "total_tokens": 129,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": "fp_0123456789",
        "padding": "x" * 93,
    }
)


def find(reply: Reply, endpoint: str = "chat", max_wait: float = 600.0) -> Finding:
    finding, answer = classify(reply, ENDPOINTS[endpoint], now=NOW, max_wait=max_wait)
    assert (answer is not None) == (finding.kind is Kind.ANSWERED)
    assert finding.status == reply.status
    return finding


def error(
    status: int, code: object = None, message: str = "no", type_: str | None = None, **headers: str
) -> Reply:
    body = {"error": {"message": message, "type": type_, "param": None, "code": code}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, named, orjson.dumps(body))


TOO_LARGE = (
    "Request too large for gpt-6-luna in organization org-x on tokens per min (TPM): Limit 30,000, Requested "
    "41,250. The input or output tokens must be reduced in order to run successfully."
)
RATE = (
    "Rate limit reached for gpt-6-luna in organization org-x on tokens per min (TPM): Limit 30000, "
    "Used 29500, Requested 2445. Please try again in 3.89s."
)
SPEED_BODIES = [
    error(429, "rate_limit_exceeded", RATE, "tokens"),
    error(429, "rate_limit_exceeded", "Please try again in 174ms.", "requests"),
    error(429, "429", "Please retry after 26 seconds."),
    Reply(429, {}, b"<html><title>429 Too Many Requests</title></html>"),
    Reply(429),
    Reply(429, {}, b'{"statusCode": 429, "message": "Rate limit is exceeded. Try again in 5 seconds."}'),
]

TABLE: list[tuple[Reply, Kind, str]] = [
    *[
        (error(400, code, "bad", "invalid_request_error"), Kind.ROW_ERROR, code)
        for code in (
            "context_length_exceeded",
            "string_above_max_length",
            "unsupported_parameter",
            "unsupported_value",
            "invalid_value",
            "missing_required_parameter",
            "invalid_type",
            "invalid_image",
            "content_policy_violation",
            "invalid_prompt",
            "content_filter",
        )
    ],
    (
        error(400, "moderation_blocked", "no", "image_generation_user_error"),
        Kind.ROW_ERROR,
        "moderation_blocked",
    ),
    (error(400, None, "tier not allowed", "invalid_request_error"), Kind.ROW_ERROR, "invalid_request_error"),
    (
        error(
            400, None, "Function tools with reasoning_effort are not supported for x in /v1/chat/completions"
        ),
        Kind.ROW_ERROR,
        "http_400",
    ),
    (error(400, "billing_hard_limit_reached"), Kind.NO_MONEY, "billing_hard_limit_reached"),
    (error(400, "model_not_found"), Kind.MODEL_ERROR, "model_not_found"),
    (
        error(401, "invalid_api_key", "Incorrect API key provided: sk-abcd1234."),
        Kind.NO_ACCESS,
        "invalid_api_key",
    ),
    (error(402, None, "Insufficient Balance"), Kind.NO_MONEY, "http_402"),
    (
        error(403, "unsupported_country_region_territory"),
        Kind.NO_ACCESS,
        "unsupported_country_region_territory",
    ),
    (error(403, "model_not_found", "Project `p` does not have access"), Kind.MODEL_ERROR, "model_not_found"),
    (error(403, "content_policy_violation"), Kind.ROW_ERROR, "content_policy_violation"),
    (error(404, "model_not_found", "The model `x` does not exist"), Kind.MODEL_ERROR, "model_not_found"),
    (
        Reply(
            404,
            {},
            b'{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError","code":404}',
        ),
        Kind.MODEL_ERROR,
        "model_not_found",
    ),
    (
        error(404, None, 'model "x" not found, try pulling it first', "api_error"),
        Kind.MODEL_ERROR,
        "model_not_found",
    ),
    (
        error(404, "DeploymentNotFound", "The API deployment does not exist."),
        Kind.MODEL_ERROR,
        "model_not_found",
    ),
    (Reply(404, {}, b"404 page not found"), Kind.MODEL_ERROR, "http_404"),
    (Reply(405, {}, b'{"detail":"Method Not Allowed"}'), Kind.MODEL_ERROR, "http_405"),
    (error(404, "previous_response_not_found", "gone"), Kind.ROW_ERROR, "previous_response_not_found"),
    (error(404, None, "No file found with id 'file-1'."), Kind.ROW_ERROR, "http_404"),
    (Reply(407), Kind.NO_ACCESS, "proxy_authentication"),
    (Reply(408), Kind.TRY_AGAIN, "http_408"),
    (error(409, "conflict"), Kind.TRY_AGAIN, "conflict"),
    (Reply(425), Kind.TRY_AGAIN, "http_425"),
    (Reply(413, {}, b"<html><title>413 Request Entity Too Large</title>"), Kind.ROW_ERROR, "http_413"),
    (error(422, None, "unprocessable"), Kind.ROW_ERROR, "http_422"),
    *[(reply, Kind.RATE_LIMITED, "rate_limit_exceeded") for reply in SPEED_BODIES],
    (error(429, "rate_limit_exceeded", TOO_LARGE, "tokens"), Kind.ROW_ERROR, "request_too_large"),
    (error(429, "slow_down", "slow", "rate_limit_error"), Kind.RATE_LIMITED, "slow_down"),
    (error(429, None, "slow", "slow_down"), Kind.RATE_LIMITED, "slow_down"),
    *[
        (error(429, code, "no money"), Kind.NO_MONEY, code)
        for code in (
            "insufficient_quota",
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "billing_hard_limit_reached",
        )
    ],
    (error(429, None, "You exceeded your quota", "insufficient_quota"), Kind.NO_MONEY, "insufficient_quota"),
    (error(429, "resource_unavailable", "Resource Unavailable"), Kind.RATE_LIMITED, "resource_unavailable"),
    (error(429, None, "Resource Unavailable"), Kind.RATE_LIMITED, "resource_unavailable"),
    (error(500, "server_error", "oops"), Kind.AMBIGUOUS, "server_error"),
    (Reply(500, {"retry-after": "3"}), Kind.AMBIGUOUS, "http_500"),
    *[
        (Reply(status, {}, b"<html><head><title>Bad gateway</title>"), Kind.AMBIGUOUS, f"http_{status}")
        for status in (502, 503, 504, 520, 521, 522, 523, 524, 529)
    ],
    (
        error(503, "server_is_overloaded", "x", "service_unavailable_error"),
        Kind.OVERLOADED,
        "server_is_overloaded",
    ),
    (error(503, None, "The engine is currently overloaded"), Kind.OVERLOADED, "http_503"),
    (Reply(503, {"retry-after": "7"}, b"<html>"), Kind.OVERLOADED, "http_503"),
    (error(503, None, "no backend"), Kind.AMBIGUOUS, "http_503"),
    (Reply(100), Kind.AMBIGUOUS, "http_100"),
    (Reply(204), Kind.AMBIGUOUS, "http_204"),
    (Reply(206, {}, CHAT), Kind.AMBIGUOUS, "http_206"),
    (Reply(301, {"location": "https://x.test/v1?key=1"}), Kind.MODEL_ERROR, "http_301"),
    (Reply(302, {"location": "https://login.test/"}), Kind.TRY_AGAIN, "http_302"),
    (Reply(None, fault="connect", sent=False), Kind.NOT_SENT, "connect"),
    (Reply(None, fault="timeout", sent=False), Kind.NOT_SENT, "timeout"),
    (Reply(None, fault="timeout"), Kind.AMBIGUOUS, "timeout"),
    (Reply(None, fault="reset"), Kind.AMBIGUOUS, "reset"),
    (Reply(None, fault="cut"), Kind.AMBIGUOUS, "cut"),
    (Reply(None, fault="too_large"), Kind.AMBIGUOUS, "too_large"),
    (
        Reply(
            None, fault="connect", sent=False, detail="x: no trusted TLS connection: certificate has expired"
        ),
        Kind.NO_ACCESS,
        "tls_error",
    ),
    (Reply(200, {}, CHAT), Kind.ANSWERED, ""),
]


@pytest.mark.parametrize(("reply", "kind", "code"), TABLE)
def test_every_line_of_the_table(reply: Reply, kind: Kind, code: str) -> None:
    finding = find(reply)
    assert (finding.kind, finding.code) == (kind, code)
    if kind is not Kind.ANSWERED and reply.status is not None:
        assert finding.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"null",
        b"[]",
        b'"text"',
        b"<html><title>Welcome</title></html>",
        b"\x1f\x8b\x08\x00garbage",
        b'data: {"choices": []}\n\n',
        b"{}",
        b'{"choices": null}',
        b'{"choices": []}',
        b'{"choices": {}}',
        b'{"choices": [null]}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"delta": {"content": "x"}}]}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"error": {"message": "x", "code": "server_error"}}',
        b'{"error": "x"}',
        b'{"object": "error", "message": "x"}',
        b'{"object": "list", "data": []}',
        b'{"object": "chat.completion.chunk", "choices": [{"message": {"content": "x"}}]}',
        b'{"object": "response", "choices": [{"message": {"content": "x"}}]}',
        b'{"choices": [{"message": {"content": "x"}, "error": {"code": 502}}]}',
        CHAT + CHAT,
        CHAT + b"}",
    ],
)
def test_a_200_without_an_answer_is_ambiguous_and_no_outage(body: bytes) -> None:
    finding = find(Reply(200, {}, body))
    assert finding.kind is Kind.AMBIGUOUS
    assert finding.outcome is Outcome.AMBIGUOUS
    assert not finding.outage
    assert finding.code
    assert finding.message


def test_an_answer_cut_at_any_byte_is_never_answered() -> None:
    assert 600 <= len(CHAT) <= 700
    for length in range(len(CHAT)):
        assert find(Reply(200, {}, CHAT[:length])).kind is Kind.AMBIGUOUS
    assert find(Reply(200, {}, CHAT + b"\n")).kind is Kind.ANSWERED


def test_an_error_in_a_200_counts_as_what_it_names_where_nothing_can_have_been_charged() -> None:
    limited = find(Reply(200, {"retry-after": "4"}, b'{"error": {"code": 429, "message": "slower"}}'))
    assert (limited.kind, limited.wait) == (Kind.RATE_LIMITED, 4.0)
    assert find(Reply(200, {}, b'{"error": {"code": "insufficient_quota"}}')).kind is Kind.NO_MONEY


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("server_error", Kind.AMBIGUOUS),
        ("vector_store_timeout", Kind.AMBIGUOUS),
        ("server_is_overloaded", Kind.AMBIGUOUS),
        ("rate_limit_exceeded", Kind.RATE_LIMITED),
        ("invalid_prompt", Kind.ROW_ERROR),
        ("data_residency_mismatch", Kind.ROW_ERROR),
        ("invalid_image_url", Kind.ROW_ERROR),
        ("image_content_policy_violation", Kind.ROW_ERROR),
        ("failed_to_download_image", Kind.ROW_ERROR),
        (None, Kind.AMBIGUOUS),
    ],
)
def test_a_failed_response_is_asked_again_only_where_that_may_help(code: str | None, kind: Kind) -> None:
    body = {"object": "response", "status": "failed", "error": {"code": code, "message": "m"}, "output": []}
    assert find(Reply(200, {}, orjson.dumps(body)), "responses").kind is kind


@pytest.mark.parametrize("status", ["queued", "in_progress", "cancelled"])
def test_a_response_that_has_not_ended_is_no_answer(status: str) -> None:
    body = {"object": "response", "status": status, "output": []}
    finding = find(Reply(200, {}, orjson.dumps(body)), "responses")
    assert (finding.kind, finding.code) == (Kind.AMBIGUOUS, status)


@pytest.mark.parametrize(
    ("reply", "outage"),
    [
        (Reply(500), False),
        *[(Reply(status), True) for status in (502, 503, 504, 520, 524, 529)],
        (Reply(503, {"retry-after": "1"}), True),
        (Reply(429), False),
        (Reply(409), False),
        (Reply(302), True),
        (Reply(200), False),
        (Reply(None, fault="timeout"), True),
        (Reply(None, fault="reset"), True),
        (Reply(None, fault="cut"), False),
        (Reply(None, fault="too_large"), False),
        (Reply(None, fault="connect", sent=False), True),
    ],
)
def test_outage_marks_what_one_request_does_not_bring_about(reply: Reply, outage: bool) -> None:
    assert find(reply).outage is outage


@pytest.mark.parametrize(
    ("headers", "message", "wait"),
    [
        ({"retry-after": "5"}, "", 5.0),
        ({"retry-after": " 1.5 "}, "", 1.5),
        ({"retry-after": "0"}, "", None),
        ({"retry-after": "-1"}, "", None),
        ({"retry-after": "NaN"}, "", None),
        ({"retry-after": "inf"}, "", None),
        ({"retry-after": "1e400"}, "", None),
        ({"retry-after": "1e9"}, "", 1e9),
        ({"retry-after": "soon"}, "", None),
        ({"retry-after": ""}, "", None),
        ({"retry-after": "1_000"}, "", None),
        ({"retry-after": "٣"}, "", None),
        ({"retry-after": "5, 9"}, "", 9.0),
        ({"retry-after": "30s"}, "", 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:30 GMT"}, "", 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:30"}, "", 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 13:00:30 +0100"}, "", 30.0),
        ({"retry-after": "2026-11-21T12:00:30Z"}, "", 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 11:59:00 GMT"}, "", None),
        ({"retry-after": "Sat, 99 Nov 2026 99:00:00 GMT"}, "", None),
        ({"retry-after": "Fri, 31 Dec 99999999999 23:59:59 GMT"}, "", None),
        # The server's clock is an hour behind ours: its date counts from its own time.
        (
            {"retry-after": "Sat, 21 Nov 2026 11:00:30 GMT", "date": "Sat, 21 Nov 2026 11:00:00 GMT"},
            "",
            30.0,
        ),
        ({"retry-after-ms": "250"}, "", 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, "", 0.25),
        ({"retry-after-ms": "x", "retry-after": "1"}, "", 1.0),
        ({}, "Please try again in 3.89s.", 3.89),
        ({}, "Please try again in 174ms.", 0.174),
        ({}, "Please try again in 6m0s. Visit", 360.0),
        ({}, "Please try again in 1h2m3.5s", 3723.5),
        ({}, "Please retry after 26 seconds.", 26.0),
        ({}, "Try again in 5 minutes", 300.0),
        ({}, "Please try again in 20 months", None),
        ({}, "Please try again later", None),
        ({"retry-after": "1"}, "Please try again in 3.89s.", 3.89),
        ({"retry-after": "9"}, "Please try again in 3.89s.", 9.0),
        ({"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-reset-requests": "20ms"}, "", 0.02),
        (
            {
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-requests": "20ms",
            },
            "",
            360.0,
        ),
        ({"x-ratelimit-reset-tokens": "6m0s", "retry-after": "2"}, "", 2.0),
        ({"x-ratelimit-reset-tokens": "-1", "x-ratelimit-reset-requests": "0"}, "", None),
        ({"x-ratelimit-reset-requests": "1790000000000"}, "", None),
    ],
)
def test_the_wait_that_a_server_asks_for(headers: dict[str, str], message: str, wait: float | None) -> None:
    found = retry_wait(headers, message, NOW)
    assert found == (wait if wait is None else pytest.approx(wait))


def test_resets_tell_the_wait_of_a_429_and_of_nothing_else() -> None:
    headers = {"x-ratelimit-reset-tokens": "6m0s"}
    assert find(Reply(429, headers)).wait == 360.0
    assert find(Reply(500, headers)).wait is None
    assert find(Reply(409, headers)).wait is None


def test_a_wait_is_kept_as_it_is_and_the_message_says_when_it_is_too_long() -> None:
    finding = find(error(429, "rate_limit_exceeded", "slow", retry_after="1e9"), max_wait=600.0)
    assert finding.wait == 1e9
    assert "1000000000 s" in finding.message
    assert "longer" not in find(error(429, "rate_limit_exceeded", "slow", retry_after="60")).message


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error": {"message": "m", "type": "t", "code": "c"}}', ("c", "t", "m")),
        (b'{"error": {"message": "m", "type": null, "code": 400}}', ("400", "", "m")),
        (b'{"error": "text", "error_type": "overloaded"}', ("", "overloaded", "text")),
        (b'{"object": "error", "message": "m", "type": "t", "code": 40}', ("40", "t", "m")),
        (b'{"detail": "Not Found"}', ("", "", "Not Found")),
        (
            b'{"detail": [{"loc": ["body", "n"], "msg": "bad", "type": "int", "input": "p"}]}',
            ("", "int", "body.n: bad"),
        ),
        (
            b'[{"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}]',
            ("429", "RESOURCE_EXHAUSTED", "m"),
        ),
        (b'{"errors": [{"message": "m", "code": "c"}]}', ("c", "", "m")),
        (
            b'{"type": "error", "error": {"type": "overloaded_error", "message": "m"}}',
            ("", "overloaded_error", "m"),
        ),
        (b'{"statusCode": 429, "message": "m"}', ("429", "", "m")),
        (b'{"error": {"error": {"message": "m"}}}', ("", "", "m")),
        (b"", ("", "", "")),
        (b"[]", ("", "", "")),
        (b"{", ("", "", "")),
        (b"[" * 5000, ("", "", "")),
        (b'{"error": true}', ("", "", "")),
    ],
)
def test_error_bodies_of_every_form(body: bytes, expected: tuple[str, str, str]) -> None:
    assert tuple(error_of(body)) == expected


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcDEF123456",
        "sk-ab********************wxyz",
        "Bearer abcdef123",
        "gsk_abcdefghij0123456789",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.s1gn-ature",
        "0123456789abcdef0123456789abcdef01234567",
    ],
)
def test_no_key_is_shown(secret: str) -> None:
    text = shown(f"the key {secret}, which is wrong")
    assert secret.removeprefix("Bearer ") not in text
    assert "***" in text
    assert text.startswith("the key ")
    assert text.endswith("which is wrong")


def test_a_key_of_any_form_after_the_words_api_key_is_not_shown() -> None:
    assert "hunter2" not in shown("Incorrect API key provided: hunter2. You can find")
    assert "hunter2" not in shown('{"api_key": "hunter2"}')


def test_messages_are_short_and_printable() -> None:
    message = find(error(400, "x", "a\x1b[31m\n\u202e" + "y " * 900)).message
    assert len(message) == 500
    assert message.startswith("a\\x1b[31m\\n\\u202ey")
    assert message.isprintable()


def test_what_servers_repeat_of_the_prompt_is_not_shown() -> None:
    prompt = "MY SECRET PROMPT"
    bodies = [
        {"detail": [{"loc": ["body", "messages"], "msg": "bad", "type": "t", "input": prompt}]},
        {"message": f"[{{'type': 'missing', 'loc': ('body',), 'msg': 'required', 'input': '{prompt}'}}]"},
        {"error": {"message": f"1 error\nn\n bad [type=int, input_value='{prompt}', input_type=str]"}},
    ]
    for body in bodies:
        assert prompt not in find(Reply(400, {}, orjson.dumps(body))).message
    for body in (prompt.encode(), b'{"choices": [{"message": {"content": 1, "x": "%b"}}]}' % prompt.encode()):
        assert prompt not in find(Reply(200, {}, body)).message


def test_a_web_page_is_told_by_its_title() -> None:
    page = b"<!DOCTYPE html><html><head><title>\n 502 Bad\n Gateway </title></head>"
    assert find(Reply(502, {}, page)).message == "HTML page: 502 Bad Gateway"
    assert "check the base URL" in find(Reply(404, {}, page)).message


def test_a_redirect_names_where_to_without_the_query() -> None:
    message = find(Reply(302, {"location": "https://u:p@login.test/in?token=abc"})).message
    assert "https://login.test/in" in message
    assert "abc" not in message
    assert "u:p" not in message
    assert find(Reply(302, {"location": "https://[broken"})).kind is Kind.TRY_AGAIN


header_names = st.sampled_from(
    [
        "retry-after",
        "retry-after-ms",
        "date",
        "x-ratelimit-reset-tokens",
        "x-ratelimit-remaining-tokens",
        "location",
    ]
)
header_values = st.one_of(
    st.text(max_size=40),
    st.text("0123456789.,-+eEinfNaN msh:GMTZ", max_size=30),
    st.datetimes().map(lambda when: when.strftime("%a, %d %b %Y %H:%M:%S GMT")),
    st.sampled_from(["5, 5", "9" * 5000, "1h" * 500, "٣s", "\x00", "-0000"]),
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(header_names, header_values), st.text(max_size=80), header_values)
def test_no_header_and_no_message_makes_it_raise(headers: dict[str, str], before: str, value: str) -> None:
    wait = retry_wait(headers, f"{before} try again in {value}", NOW)
    assert wait is None or 0 < wait < float("inf")
    find(Reply(302, headers))
    find(
        Reply(
            429,
            headers,
            orjson.dumps({"error": {"message": "try again in " + value.encode("utf-8", "replace").decode()}}),
        )
    )


FIELDS = [
    *("error", "message", "code", "type", "choices", "content", "tool_calls", "function", "arguments"),
    *("output", "status", "usage", "data", "embedding", "index", "object", "refusal", "finish_reason"),
    *(
        "prompt_tokens",
        "total_tokens",
        "incomplete_details",
        "custom",
        "function_call",
        "text",
        "service_tier",
    ),
]
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(["chat", "responses", "embeddings"]),
    st.one_of(st.binary(max_size=60), json_values),
    st.sampled_from([None, 100, 200, 204, 301, 302, 400, 401, 403, 404, 409, 413, 429, 500, 503, 529, 700]),
)
def test_no_body_makes_it_raise(endpoint: str, body: object, status: int | None) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    finding, answer = classify(
        Reply(status, {}, raw), ENDPOINTS[endpoint], now=NOW, max_wait=600.0, forced_tool=len(raw) % 2 == 0
    )
    assert isinstance(answer, Answer) == (finding.kind is Kind.ANSWERED)
    assert len(finding.message) <= 600
    if answer is not None:
        assert status == 200
        orjson.dumps(answer.output)
