"""Chat completions: what a request asks for, and what an answer says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from runner import record
from runner.endpoints.answer import (
    BadAnswer,
    check_object,
    finish_reason,
    is_plain,
    load,
    text_or_none,
    usage_of,
    worst_reason,
)
from runner.endpoints.request import choices_of, largest, model_fault, of_value, stream_fault
from runner.endpoints.tools import drawn
from runner.model import Answer, Demand, Usage
from runner.tokens import estimate, of_text

_PER_MESSAGE = 4
_BESIDE_MESSAGES = frozenset({"tools", "functions", "response_format", "web_search_options", "modalities"})
"""The fields that add to the input, or make a worst case impossible."""
_TEXTS = {"text": "text", "refusal": "refusal"}


def check(body: Mapping[str, object]) -> list[tuple[str, str]]:
    """What any server would refuse this request body for, as (code, message)."""
    faults = model_fault(body) + stream_fault(body)
    messages = body.get("messages")
    if messages is None:
        faults.append(("missing_messages", "the request has no messages"))
    elif not isinstance(messages, (list, tuple)):
        faults.append(("invalid_messages", "messages is not a list"))
    elif not messages:
        faults.append(("invalid_messages", "messages is an empty list"))
    else:
        for place, message in enumerate(messages):
            if not isinstance(message, (dict, Mapping)):
                faults.append(("invalid_messages", f"messages[{place}] is not an object"))
                break
    n = body.get("n")
    if n is not None and (type(n) is not int or n < 1):
        faults.append(("invalid_n", "n is not a whole number of at least 1"))
    return faults


def demand(body: Mapping[str, object], body_bytes: int, count: Callable[[str], int] = of_text) -> Demand:
    """The tokens that a request asks for. The input is an estimate from its texts, unless `count` counts them.

    Around each message stand three tokens and its role, one more goes with a name, and three begin the answer
    (OpenAI's cookbook, "How to count tokens with tiktoken").
    """
    tokens, unbounded = 3, None
    messages = body.get("messages")
    for message in messages if isinstance(messages, (list, tuple)) else ():
        if not isinstance(message, (dict, Mapping)):
            continue
        content = message.get("content")
        tokens += _PER_MESSAGE
        if isinstance(content, str):
            tokens += count(content)
            if len(message) == 2 and "role" in message:
                continue
        elif content is not None:
            more, unbounded = _of_parts(content, unbounded, count)
            tokens += more
        name = message.get("name")
        if isinstance(name, str):
            tokens += 1 + count(name)
        if message.get("tool_calls"):
            tokens += of_value(message["tool_calls"])
        if message.get("audio"):
            unbounded = unbounded or "audio input"
    if not _BESIDE_MESSAGES.isdisjoint(body):
        for field in ("tools", "functions", "response_format"):
            if body.get(field):
                tokens += of_value(body[field])
        unbounded = unbounded or _unbounded(body)
    return Demand(
        min(tokens, max(body_bytes, 1)),
        largest(body.get("max_completion_tokens"), body.get("max_tokens")),
        choices_of(body.get("n")),
        unbounded,
    )


def _of_parts(content: object, unbounded: str | None, count: Callable[[str], int]) -> tuple[int, str | None]:
    tokens = 0
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, (dict, Mapping)) else None
        text = part.get(_TEXTS.get(str(kind), "")) if isinstance(part, (dict, Mapping)) else None
        if isinstance(text, str):
            tokens += count(text)
        elif kind is None:
            tokens += estimate(len(record.dumps(part)))
        else:
            unbounded = unbounded or f"{kind} input"
    return tokens, unbounded


def _unbounded(body: Mapping[str, object]) -> str | None:
    if body.get("web_search_options") is not None:
        return "web_search"
    modalities = body.get("modalities")
    if isinstance(modalities, (list, tuple)) and "audio" in modalities:
        return "audio output"
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else []:
        kind = tool.get("type") if isinstance(tool, (dict, Mapping)) else None
        if kind not in (None, "function", "custom"):
            return f"the hosted tool {kind}"
    return None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


class _Counts(msgspec.Struct, gc=False):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Message(msgspec.Struct, gc=False):
    content: str
    refusal: None = None
    tool_calls: None = None
    function_call: None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message
    finish_reason: Literal["stop", "length", "content_filter"]
    error: None = None


class _Completion(msgspec.Struct, gc=False):
    object: Literal["chat.completion"]
    choices: list[_Choice]
    usage: _Counts
    model: str | None = None
    service_tier: str | None = None
    error: None = None


_NO_DETAILS = _Details()
_USUAL = msgspec.json.Decoder(_Completion)


def read(body: bytes, *, forced_tool: bool = False) -> Answer:
    """What the body of a 200 says. Raises BadAnswer where it is no chat completion."""
    return _read_usual(body) or _read_any(body, forced_tool)


def _read_usual(body: bytes) -> Answer | None:
    """What a body says that holds one text and plausible counts, as nearly all do, at a third of the cost; None for any
    other."""
    try:
        if not body.isascii():
            body.decode()
        found = _USUAL.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    choices, counts = found.choices, found.usage
    if len(choices) != 1:
        return None
    inside = counts.prompt_tokens_details or _NO_DETAILS
    made = counts.completion_tokens_details or _NO_DETAILS
    usage = Usage(
        counts.prompt_tokens,
        inside.cached_tokens,
        inside.cache_write_tokens,
        counts.completion_tokens,
        made.reasoning_tokens,
        counts.total_tokens,
    )
    if not is_plain(usage):
        return None
    choice = choices[0]
    return Answer(choice.message.content, choice.finish_reason, found.model, found.service_tier, usage)


def _read_any(body: bytes, forced_tool: bool) -> Answer:
    found = load(body)
    check_object(found, "chat.completion")
    choices = found.get("choices")
    if type(choices) is not list or not choices:
        raise BadAnswer("no_choices", "the body has no choices")
    if len(choices) == 1:
        output, reason = _choice(choices[0], forced_tool)
    else:
        read_choices = [_choice(choice, forced_tool) for choice in _by_index(choices)]
        output = [one for one, _ in read_choices]
        reason = worst_reason(one for _, one in read_choices)
    return Answer(
        output,
        reason,
        text_or_none(found.get("model")),
        text_or_none(found.get("service_tier")),
        usage_of(found.get("usage")),
    )


def _by_index(choices: list[object]) -> list[object]:
    numbered = [
        (choice["index"], place)
        for place, choice in enumerate(choices)
        if isinstance(choice, dict) and type(choice.get("index")) is int
    ]
    if len(numbered) < len(choices):
        return choices
    return [choices[place] for _, place in sorted(numbered)]


def _choice(choice: object, forced: bool) -> tuple[object, str]:
    message = choice.get("message") if type(choice) is dict else None
    if type(choice) is not dict or type(message) is not dict:
        raise BadAnswer("bad_choice", "a choice of the body has no message")
    if choice.get("error"):
        raise BadAnswer("error_body", "a choice of the body holds an error, though the status is 200")
    calls = _calls(message)
    reason = finish_reason(choice.get("finish_reason"), default="tool_calls" if calls else "stop")
    content = _content(message.get("content"))
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        return content or refusal, "refusal"
    if calls:
        return drawn(calls, forced=forced), reason
    if content is None and isinstance(message.get("audio"), dict):
        content = text_or_none(message["audio"].get("transcript"))
    return content, reason


def _calls(message: dict[str, object]) -> list[tuple[object, object]]:
    found: list[tuple[object, object]] = []
    calls = message.get("tool_calls")
    if calls:
        for call in calls if isinstance(calls, list) else [calls]:
            inner = (call.get("function") or call.get("custom")) if isinstance(call, dict) else None
            if not isinstance(inner, dict):
                raise BadAnswer("bad_choice", "a tool call of the body names no function")
            found.append((inner.get("name"), inner.get("arguments", inner.get("input"))))
    legacy = message.get("function_call")
    if isinstance(legacy, dict) and not found:
        found.append((legacy.get("name"), legacy.get("arguments")))
    return found


def _content(content: object) -> str | None:
    if content is None or type(content) is str:
        return content
    if isinstance(content, list):
        texts = [
            part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"
        ]
        return "".join(text for text in texts if isinstance(text, str))
    raise BadAnswer("bad_choice", "the content of a choice is neither text nor a list of parts")
