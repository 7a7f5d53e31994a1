"""What requests ask for and what answers say, at each endpoint, from servers strict and loose."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as some

from runner.endpoints import BY_URL, ENDPOINTS, BadAnswer, embeddings, forced_tool
from runner.endpoints import chat as chat_endpoint
from runner.endpoints.chat import demand as chat_demand
from runner.endpoints.responses import demand as responses_demand
from runner.model import Answer, Usage

MESSAGES = [{"role": "user", "content": "Where is my parcel?"}]


def read(endpoint: str, body: object, *, forced: bool = False) -> Answer:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return ENDPOINTS[endpoint].read(raw, forced_tool=forced)


def chat(message: Mapping[str, object], finish: object = "stop", **more: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}


def call(name: str, arguments: object) -> dict[str, object]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def response(*items: Mapping[str, object], **more: object) -> dict[str, object]:
    return {"object": "response", "status": "completed", "error": None, "output": list(items), **more}


def said(*texts: str) -> dict[str, object]:
    return {"type": "message", "content": [{"type": "output_text", "text": text} for text in texts]}


def test_endpoints_by_name_and_by_url() -> None:
    assert {name: one.url for name, one in ENDPOINTS.items()} == {
        "chat": "/v1/chat/completions",
        "responses": "/v1/responses",
        "embeddings": "/v1/embeddings",
    }
    for one in ENDPOINTS.values():
        assert BY_URL[one.url] is BY_URL[one.path] is ENDPOINTS[one.name] is one


@pytest.mark.parametrize(
    ("endpoint", "body", "codes"),
    [
        ("chat", {"model": "m", "messages": MESSAGES}, []),
        ("chat", {"model": "m", "messages": MESSAGES, "stream": False, "n": 2, "novelty": [1]}, []),
        ("chat", {"model": "m", "messages": MESSAGES, "n": None, "stream": None}, []),
        ("chat", {}, ["missing_model", "missing_messages"]),
        ("chat", {"model": "", "messages": MESSAGES}, ["invalid_model"]),
        ("chat", {"model": 5, "messages": MESSAGES}, ["invalid_model"]),
        ("chat", {"model": "m", "messages": []}, ["invalid_messages"]),
        ("chat", {"model": "m", "messages": "hello"}, ["invalid_messages"]),
        ("chat", {"model": "m", "messages": {"role": "user"}}, ["invalid_messages"]),
        ("chat", {"model": "m", "messages": ["hello", "you"]}, ["invalid_messages"]),
        ("chat", {"model": "m", "messages": MESSAGES, "stream": True}, ["stream_unsupported"]),
        ("chat", {"model": "m", "messages": MESSAGES, "n": "2"}, ["invalid_n"]),
        ("chat", {"model": "m", "messages": MESSAGES, "n": True}, ["invalid_n"]),
        ("chat", {"model": "m", "messages": MESSAGES, "n": 0}, ["invalid_n"]),
        ("responses", {"model": "m", "input": "x"}, []),
        ("responses", {"model": "m", "input": [{"role": "user", "content": "x"}]}, []),
        ("responses", {"model": "m", "previous_response_id": "resp_1"}, []),
        ("responses", {"prompt": {"id": "pmpt_1"}}, []),
        ("responses", {}, ["missing_model", "missing_input"]),
        ("responses", {"model": "m", "input": 7}, ["invalid_input"]),
        ("responses", {"model": "m", "input": "x", "stream": True}, ["stream_unsupported"]),
        ("responses", {"model": "m", "input": "x", "background": True}, ["background_unsupported"]),
        ("embeddings", {"model": "m", "input": "x"}, []),
        ("embeddings", {"model": "m", "input": [[1, 2], [3]]}, []),
        ("embeddings", {"model": "m", "messages": MESSAGES}, []),
        ("embeddings", {"model": "m"}, ["missing_input"]),
        ("embeddings", {"input": "x"}, ["missing_model"]),
        ("embeddings", {"model": "m", "input": []}, ["invalid_input"]),
        ("embeddings", {"model": "m", "input": {"text": "x"}}, ["invalid_input"]),
    ],
)
def test_check_finds_what_would_surely_be_refused(
    endpoint: str, body: dict[str, object], codes: list[str]
) -> None:
    found = ENDPOINTS[endpoint].check(body)
    assert [code for code, _ in found] == codes
    assert all(message for _, message in found)


def demand(endpoint: str, body: dict[str, object]) -> Any:
    return ENDPOINTS[endpoint].demand(body, len(orjson.dumps(body)))


@pytest.mark.parametrize(
    ("endpoint", "body", "most"),
    [
        ("chat", {"messages": MESSAGES}, None),
        ("chat", {"messages": MESSAGES, "max_tokens": 9}, 9),
        ("chat", {"messages": MESSAGES, "max_completion_tokens": 7}, 7),
        ("chat", {"messages": MESSAGES, "max_completion_tokens": 7, "max_tokens": 9}, 9),
        ("chat", {"messages": MESSAGES, "max_tokens": "9"}, None),
        ("responses", {"input": "x", "max_output_tokens": 60}, 60),
        ("responses", {"input": "x"}, None),
        ("embeddings", {"input": "x"}, 0),
    ],
)
def test_demand_bounds_the_output_where_the_body_does(
    endpoint: str, body: dict[str, object], most: int | None
) -> None:
    found = demand(endpoint, body)
    assert found.max_output == most
    assert found.choices == 1
    assert found.unbounded is None
    assert 1 <= found.input_tokens <= len(orjson.dumps(body))


def test_demand_grows_with_every_text_of_the_prompt() -> None:
    text = "the quick brown fox " * 50
    one, parts = [{"role": "user", "content": text}], [{"type": "text", "text": text}]
    bodies: list[tuple[str, dict[str, object], int]] = [
        ("chat", {"messages": one}, 250),
        ("chat", {"messages": one * 3}, 750),
        ("chat", {"messages": [{"role": "user", "content": parts * 2}]}, 500),
        ("chat", {"messages": one, "tools": [{"type": "function", "function": {"description": text}}]}, 500),
        ("responses", {"input": text, "instructions": text}, 500),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": text}]}]}, 250),
        ("responses", {"input": [{"role": "user", "content": text}, {"type": "x", "output": text}]}, 500),
        ("embeddings", {"input": text}, 250),
        ("embeddings", {"input": [text, text]}, 500),
        ("embeddings", {"input": [[1, 2, 3], [4]]}, 4),
        ("embeddings", {"input": [1, 2, 3]}, 3),
    ]
    for endpoint, body, tokens in bodies:
        assert tokens <= demand(endpoint, body).input_tokens <= tokens * 1.2 + 10
    assert demand("chat", {"messages": one, "n": 4}).choices == 4


@pytest.mark.parametrize(
    ("endpoint", "body", "named"),
    [
        (
            "chat",
            {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "image_url input",
        ),
        ("chat", {"messages": [{"content": [{"type": "input_audio"}]}]}, "input_audio input"),
        ("chat", {"messages": [{"content": [{"type": "file"}]}]}, "file input"),
        ("chat", {"messages": MESSAGES, "web_search_options": {}}, "web_search"),
        ("chat", {"messages": MESSAGES, "modalities": ["text", "audio"]}, "audio output"),
        ("chat", {"messages": MESSAGES, "tools": [{"type": "function"}]}, None),
        ("responses", {"input": "x", "tools": [{"type": "function"}, {"type": "custom"}]}, None),
        *[
            ("responses", {"input": "x", "tools": [{"type": tool}]}, f"the hosted tool {tool}")
            for tool in (
                "web_search",
                "file_search",
                "code_interpreter",
                "image_generation",
                "mcp",
                "computer",
            )
        ],
        ("responses", {"input": [{"content": [{"type": "input_image"}]}]}, "input_image input"),
        ("responses", {"input": [{"content": [{"type": "input_file"}]}]}, "input_file input"),
        ("responses", {"input": [{"type": "item_reference", "id": "x"}]}, "item_reference"),
        ("responses", {"input": "x", "previous_response_id": "r"}, "previous_response_id"),
        ("responses", {"input": "x", "conversation": "c"}, "conversation"),
    ],
)
def test_demand_names_what_makes_a_worst_case_impossible(
    endpoint: str, body: dict[str, object], named: str | None
) -> None:
    assert demand(endpoint, body).unbounded == named


@pytest.mark.parametrize(
    ("body", "output", "reason"),
    [
        (chat({"content": "hi"}), "hi", "stop"),
        (chat({"content": "hi"}, None), "hi", "stop"),
        ({"choices": [{"message": {"content": "hi"}}]}, "hi", "stop"),
        (chat({"content": ""}, "length"), "", "length"),
        (chat({"content": None}), None, "stop"),
        (chat({"role": "assistant"}), None, "stop"),
        (chat({"content": "hi", "reasoning_content": "hm"}), "hi", "stop"),
        (chat({"content": "hi"}, "eos_token"), "hi", "stop"),
        (chat({"content": "hi"}, "content_filter"), "hi", "content_filter"),
        (chat({"content": "hi"}, "abort"), "hi", "abort"),
        (
            chat(
                {
                    "content": [
                        {"type": "thinking"},
                        {"type": "text", "text": "a"},
                        {"type": "text", "text": "b"},
                    ]
                }
            ),
            "ab",
            "stop",
        ),
        (chat({"content": None, "refusal": "I cannot"}), "I cannot", "refusal"),
        (chat({"content": "hi", "refusal": ""}), "hi", "stop"),
        (chat({"content": None, "audio": {"transcript": "spoken"}}), "spoken", "stop"),
        (
            chat({"content": None, "tool_calls": [call("f", '{"a": 1}')]}, "tool_calls"),
            [{"name": "f", "arguments": {"a": 1}}],
            "tool_calls",
        ),
        (
            chat({"content": None, "tool_calls": [call("f", "")]}, None),
            [{"name": "f", "arguments": {}}],
            "tool_calls",
        ),
        (
            chat({"tool_calls": [call("f", '{"a": ')]}, "length"),
            [{"name": "f", "arguments": '{"a": '}],
            "length",
        ),
        (
            chat({"tool_calls": [call("f", {"a": 1})]}, "tool_calls"),
            [{"name": "f", "arguments": {"a": 1}}],
            "tool_calls",
        ),
        (
            chat(
                {"tool_calls": [{"type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}]},
                "tool_calls",
            ),
            [{"name": "sql", "arguments": "SELECT 1"}],
            "tool_calls",
        ),
        (
            chat({"function_call": {"name": "f", "arguments": "{}"}}, "function_call"),
            [{"name": "f", "arguments": {}}],
            "tool_calls",
        ),
        (chat({"content": "hi", "tool_calls": []}), "hi", "stop"),
    ],
)
def test_chat_answers(body: object, output: object, reason: str) -> None:
    found = read("chat", body)
    assert (found.output, found.finish_reason) == (output, reason)


def test_a_forced_tool_gives_its_arguments_alone() -> None:
    one = chat({"tool_calls": [call("f", '{"a": [1]}')]})
    assert read("chat", one, forced=True).output == {"a": [1]}
    both = chat({"tool_calls": [call("f", '{"a": 1}'), call("f", '{"a": 2}')]})
    assert read("chat", both, forced=True).output == [
        {"name": "f", "arguments": {"a": 1}},
        {"name": "f", "arguments": {"a": 2}},
    ]
    item = {"type": "function_call", "name": "f", "arguments": '{"a": 1}'}
    assert read("responses", response(item), forced=True).output == {"a": 1}
    assert read("responses", response(item), forced=True).finish_reason == "tool_calls"


def test_several_choices_are_a_list_in_order_with_the_worst_finish_reason() -> None:
    choices = [
        {"index": 2, "message": {"content": "c"}, "finish_reason": "stop"},
        {"index": 0, "message": {"content": "a"}, "finish_reason": "length"},
        {"index": 1, "message": {"content": "b"}, "finish_reason": "content_filter"},
    ]
    found = read("chat", {"choices": choices})
    assert found.output == ["a", "b", "c"]
    assert found.finish_reason == "content_filter"
    assert read("chat", {"choices": choices[:2]}).finish_reason == "length"


@pytest.mark.parametrize(
    ("body", "output", "reason"),
    [
        (response(said("hi")), "hi", "stop"),
        (response({"type": "reasoning"}, said("a", "b"), said("c")), "abc", "stop"),
        ({"output": [said("hi")]}, "hi", "stop"),
        (response({"type": "message", "content": "plain"}), "plain", "stop"),
        (response({"type": "message", "content": []}), None, "stop"),
        (
            response(said("cut"), status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            "cut",
            "length",
        ),
        (response(status="incomplete", incomplete_details={"reason": "max_output_tokens"}), None, "length"),
        (
            response(said("x"), status="incomplete", incomplete_details={"reason": "content_filter"}),
            "x",
            "content_filter",
        ),
        (response(said("x"), status="incomplete", incomplete_details={"reason": "steered"}), "x", "steered"),
        (response(said("x"), status="incomplete"), "x", "incomplete"),
        (response({"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}), "no", "refusal"),
        (
            response({"type": "function_call", "name": "f", "arguments": '{"a": 1}'}),
            [{"name": "f", "arguments": {"a": 1}}],
            "tool_calls",
        ),
        (
            response({"type": "custom_tool_call", "name": "sql", "input": "SELECT 1"}),
            [{"name": "sql", "arguments": "SELECT 1"}],
            "tool_calls",
        ),
        (
            response(said("calling"), {"type": "function_call", "name": "f", "arguments": "{}"}),
            "calling",
            "stop",
        ),
    ],
)
def test_responses_answers(body: object, output: object, reason: str) -> None:
    found = read("responses", body)
    assert (found.output, found.finish_reason) == (output, reason)


@pytest.mark.parametrize(
    ("endpoint", "body", "code"),
    [
        ("chat", b"", "not_json"),
        ("chat", b"<!DOCTYPE html><title>x</title>", "html"),
        ("chat", b'data: {"a": 1}\n\n', "event_stream"),
        ("chat", b"[1]", "not_an_object"),
        ("chat", b"[" * 100_000, "not_json"),
        ("chat", {"error": {"message": "secret words"}}, "error_body"),
        ("chat", {"object": "list", "data": []}, "wrong_object"),
        ("chat", {"choices": []}, "no_choices"),
        ("chat", chat({"content": {"a": "secret words"}}), "bad_choice"),
        ("chat", chat({"tool_calls": ["secret words"]}), "bad_choice"),
        ("responses", {"object": "chat.completion", "choices": []}, "wrong_object"),
        ("responses", {"status": "completed"}, "no_output"),
        ("responses", response(), "no_output"),
        ("responses", response(status="queued"), "queued"),
        ("responses", response(status="failed", error={"code": "server_error"}), "server_error"),
        ("responses", response({"type": "message", "content": None}), "bad_output"),
        ("embeddings", b"{", "not_json"),
        ("embeddings", {"error": "secret words"}, "error_body"),
        ("embeddings", {"object": "chat.completion", "data": [{"embedding": [1.0]}]}, "wrong_object"),
        ("embeddings", {"object": "list"}, "no_data"),
        ("embeddings", {"object": "list", "data": []}, "no_data"),
        ("embeddings", {"data": [{"index": 0}]}, "bad_vector"),
        ("embeddings", {"data": [{"embedding": []}]}, "bad_vector"),
        ("embeddings", {"data": [{"embedding": None}]}, "bad_vector"),
        ("embeddings", {"data": [{"embedding": [1, None]}]}, "bad_vector"),
        ("embeddings", {"data": [{"embedding": [[1], [2]]}]}, "bad_vector"),
        ("embeddings", {"data": [{"embedding": "secret words"}]}, "bad_vector"),
        ("embeddings", {"data": [{"embedding": "AAA="}]}, "bad_vector"),
        (
            "embeddings",
            {"data": [{"embedding": base64.b64encode(struct.pack("<f", float("nan"))).decode()}]},
            "bad_vector",
        ),
        ("embeddings", b'{"data": [{"embedding": [NaN]}]}', "bad_vector"),
    ],
)
def test_what_has_not_the_shape_of_an_answer(endpoint: str, body: object, code: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        read(endpoint, body)
    assert caught.value.code == code
    assert caught.value.failed is (code == "server_error")
    assert "secret words" not in str(caught.value)


def test_lone_surrogates_and_byte_order_marks_do_not_lose_a_paid_answer() -> None:
    body = b'\xef\xbb\xbf{"choices": [{"message": {"content": "a\\ud800b \\ud83d\\ude00"}, "logprobs": NaN}]}'
    assert read("chat", body).output == "a\ufffdb \U0001f600"


DETAILS = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 15},
}


@pytest.mark.parametrize(
    ("found", "usage"),
    [
        (DETAILS, Usage(100, 60, 10, 20, 15, 120)),
        (
            {
                "input_tokens": 100,
                "output_tokens": 20,
                "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
                "output_tokens_details": {"reasoning_tokens": 15},
            },
            Usage(100, 60, 10, 20, 15, 120),
        ),
        ({"prompt_tokens": 5, "completion_tokens": 2}, Usage(5, 0, 0, 2, 0, 7)),
        ({"prompt_tokens": 5, "total_tokens": 7}, Usage(5, 0, 0, 2, 0, 7)),
        ({"completion_tokens": 2, "total_tokens": 7}, Usage(5, 0, 0, 2, 0, 7)),
        (
            {**DETAILS, "prompt_tokens_details": None, "completion_tokens_details": None},
            Usage(100, 0, 0, 20, 0, 120),
        ),
        ({**DETAILS, "prompt_tokens_details": {"cached_tokens": None}}, Usage(100, 0, 0, 20, 15, 120)),
        # Some servers count reasoning beside the output: the total tells.
        ({**DETAILS, "total_tokens": 135}, Usage(100, 60, 10, 35, 15, 135)),
        ({**DETAILS, "completion_tokens": 10, "total_tokens": 110}, Usage(100, 60, 10, 25, 15, 125)),
        (None, None),
        ([], None),
        ({}, None),
        ({"prompt_tokens": 5}, None),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
        ({**DETAILS, "prompt_tokens": -1}, None),
        ({**DETAILS, "completion_tokens": 10**12}, None),
        ({**DETAILS, "completion_tokens": 2.5}, None),
        ({**DETAILS, "completion_tokens": "20"}, None),
        ({**DETAILS, "completion_tokens": True, "total_tokens": None}, None),
        ({**DETAILS, "prompt_tokens_details": {"cached_tokens": -5}}, None),
        ({**DETAILS, "prompt_tokens_details": {"cached_tokens": 101}}, None),
        ({"prompt_tokens": 9, "total_tokens": 5}, None),
    ],
)
def test_usage_is_known_or_none_and_never_negative(found: object, usage: Usage | None) -> None:
    assert read("chat", chat({"content": "x"}, usage=found)).usage == usage
    assert read("responses", response(said("x"), usage=found)).usage == usage


def test_model_and_tier_are_those_that_the_answer_names() -> None:
    found = read("chat", chat({"content": "x"}, model="gpt-6-luna-2026", service_tier="flex"))
    assert (found.model, found.tier) == ("gpt-6-luna-2026", "flex")
    found = read("chat", chat({"content": "x"}, model=None, service_tier=None))
    assert (found.model, found.tier, found.usage) == (None, None, None)


@pytest.mark.parametrize(
    ("request_", "forced"),
    [
        ({}, False),
        ({"tool_choice": "auto"}, False),
        ({"tool_choice": "required"}, False),
        ({"tool_choice": "required", "tools": [{"type": "function"}]}, True),
        ({"tool_choice": "required", "tools": [{"type": "function"}, {"type": "function"}]}, False),
        ({"tool_choice": "required", "tools": [{"type": "web_search"}]}, False),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, True),
        ({"tool_choice": {"type": "function", "name": "f"}}, True),
        ({"tool_choice": {"type": "custom", "custom": {"name": "f"}}}, True),
        ({"tool_choice": {"type": "web_search"}}, False),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function"}]}},
            True,
        ),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function"}]}}, False),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "required", "tools": [{"type": "function"}]},
                }
            },
            True,
        ),
        ({"function_call": {"name": "f"}}, True),
        ({"function_call": "auto"}, False),
    ],
)
def test_forced_tools(request_: dict[str, object], forced: bool) -> None:
    assert forced_tool(request_) is forced


def test_the_vector_keeps_the_servers_own_digits() -> None:
    body = (
        b'{"object":"list","model":"e","usage":{"prompt_tokens":8,"total_tokens":8},'
        b'"data":[{"object":"embedding","index":0,"embedding":[0.10,-1.0e-05,\n 3]}]}'
    )
    found = read("embeddings", body)
    assert orjson.dumps(found.output) == b"[0.10,-1.0e-05, 3]"
    assert (found.finish_reason, found.model, found.usage) == ("stop", "e", Usage(8, 0, 0, 0, 0, 8))


def test_vectors_come_in_the_order_of_the_inputs() -> None:
    items = [{"index": 2, "embedding": [2]}, {"index": 0, "embedding": [0]}, {"index": 1, "embedding": [1]}]
    body = orjson.dumps({"data": items})
    assert embeddings.count(body) == 3
    assert orjson.dumps(embeddings.vectors(body)) == b"[[0],[1],[2]]"
    assert orjson.dumps(read("embeddings", body).output) == b"[0]"
    assert orjson.dumps(embeddings.read(body, index=2).output) == b"[2]"
    with pytest.raises(BadAnswer, match="numbered"):
        embeddings.vectors(orjson.dumps({"data": [items[0], items[1], items[1]]}))


def test_base64_vectors_are_the_same_floats() -> None:
    values = [0.1, -0.25, 1e-8, 3.4028234663852886e38, 1.401298464324817e-45, 0.0]
    packed = struct.pack("<6f", *values)
    body = {"data": [{"embedding": base64.b64encode(packed).decode(), "index": 0}]}
    found = read("embeddings", body).output
    assert struct.pack("<6f", *orjson.loads(orjson.dumps(found))) == packed
    assert orjson.dumps(found).startswith(b"[0.1,-0.25,")


# Counting instead of estimating


def test_a_chat_request_is_counted_as_the_cookbook_counts() -> None:
    body = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "abc"},
            {"role": "user", "name": "ab", "content": [{"type": "text", "text": "abcdef"}]},
        ],
    }
    # Three for the answer's beginning, four around each message, one for a name; len() counts the texts.
    assert ENDPOINTS["chat"].demand(body, 10**6).input_tokens < 30
    assert chat_demand(body, 10**6, len).input_tokens == 3 + (4 + 3) + (4 + 6) + (1 + 2)


def test_a_responses_request_is_counted_by_its_items() -> None:
    body = {
        "model": "m",
        "instructions": "ab",
        "input": [
            {"role": "user", "content": "abc"},
            {"role": "user", "content": [{"type": "input_text", "text": "abcd"}]},
        ],
    }
    assert responses_demand(body, 10**6, len).input_tokens == 3 + (4 + 2) + (4 + 3) + (4 + 4)
    assert responses_demand({"input": "abcde"}, 10**6, len).input_tokens == 3 + 4 + 5


# --- usual chat completions are read in a quicker way ---------------------------------------------------

USUAL: dict[str, Any] = {
    "object": "chat.completion",
    "model": "gpt-6-luna",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 29,
        "completion_tokens": 5,
        "total_tokens": 34,
        "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    },
    "service_tier": "default",
    "system_fingerprint": None,
}
WORDS = [
    "",
    "x",
    "stop",
    "length",
    "tool_calls",
    "\ud800",
    "é\u2028",
    "chat.completion",
    "chat.completion.chunk",
    "error",
]
NUMBERS = [0, 1, 5, 29, -1, 2.0, 10**9, 10**12]
OTHERS = [None, True, [], {}, ["x"], {"x": 1}, {"code": "x", "message": "y"}]
ODD = some.sampled_from([*WORDS, *NUMBERS, *OTHERS])
PLACES: list[tuple[str | int, ...]] = [
    *((name,) for name in (*USUAL, "error", "id")),
    *(("choices", 0, name) for name in ("index", "message", "finish_reason", "error", "logprobs")),
    *(
        ("choices", 0, "message", name)
        for name in ("content", "refusal", "tool_calls", "function_call", "audio")
    ),
    *(("usage", name) for name in USUAL["usage"]),
    ("usage", "prompt_tokens_details", "cached_tokens"),
    ("usage", "prompt_tokens_details", "cache_write_tokens"),
    ("usage", "completion_tokens_details", "reasoning_tokens"),
]
"""Where a body can be other than usual."""


def read_as(read: Callable[[bytes], Answer], body: bytes) -> object:
    try:
        return read(body)
    except BadAnswer as error:
        return error.code, error.message, error.failed


@given(
    some.lists(some.tuples(some.sampled_from(PLACES), ODD | some.just(...)), max_size=3), some.integers(-3, 2)
)
def test_a_usual_completion_is_read_as_any_other(
    changes: list[tuple[tuple[str | int, ...], object]], cut: int
) -> None:
    body: Any = json.loads(json.dumps(USUAL))
    for (*way, last), value in changes:
        holder = body
        try:
            for step in way:
                holder = holder[step]
            if value is ...:
                del holder[last]
            else:
                holder[last] = value
        except (KeyError, IndexError, TypeError):
            continue
    raw = json.dumps(body, ensure_ascii=cut >= 0).encode("utf-8", "surrogatepass")
    raw = raw[:cut] if cut < 0 else raw + b" " * cut
    assert read_as(chat_endpoint.read, raw) == read_as(lambda body: chat_endpoint._read_any(body, False), raw)


@pytest.mark.parametrize("bad", [b'"\xff"', b'"a\x01b"', b"01", b"NaN", b'"\\q"', b'"\n"', b"1e999"])
def test_what_is_no_json_is_none_however_quickly_it_is_read(bad: bytes) -> None:
    raw = orjson.dumps(USUAL).replace(b'"system_fingerprint":null', b'"system_fingerprint":' + bad)
    assert read_as(chat_endpoint.read, raw) == read_as(lambda body: chat_endpoint._read_any(body, False), raw)


def test_the_usual_completion_is_the_one_that_is_read_quickly() -> None:
    raw = orjson.dumps(USUAL)
    assert chat_endpoint._read_usual(raw) == Answer(
        "Yes.", "stop", "gpt-6-luna", "default", Usage(29, 3, 2, 5, 1, 34)
    )
