"""What every endpoint reads alike: the body of a 200 as values, its token counts, its finish reason."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import orjson

from runner.model import Usage

_MOST_TOKENS = 10**9
"""No answer comes to this many tokens: a larger count is a fault of the server."""

_REASONS = {
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "completed": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
}
_SEVERITY = {"stop": 0, "tool_calls": 1, "length": 3, "refusal": 4, "content_filter": 5}


class BadAnswer(ValueError):
    """The body of a 200 does not have the shape of an answer.

    `code` names the fault, or is the API's own code where the API says that the request failed (`failed`).
    The message never holds text of the prompt or of the answer.
    """

    def __init__(self, code: str, message: str, *, failed: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.failed = failed


def load(body: bytes) -> dict[str, object]:
    """The JSON object in a body. Lone surrogates, which no UTF-8 file can hold, become U+FFFD.

    Raises BadAnswer: not_json, not_an_object.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = _load_slowly(body)
    if type(found) is not dict:
        raise BadAnswer("not_an_object", f"the body is a JSON {type(found).__name__}, not an object")
    return found


def _load_slowly(body: bytes) -> object:
    # orjson refuses lone surrogates, NaN and byte order marks; an answer that has them was paid all the same.
    try:
        return _mended(json.loads(body))
    except (ValueError, RecursionError):
        start = body[:200].lstrip().lower()
        if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
            raise BadAnswer("html", f"the body is a web page of {len(body)} bytes, not JSON") from None
        if start.startswith((b"data:", b"event:")):
            raise BadAnswer("event_stream", "the body is a stream of events, not one JSON object") from None
        what = "empty" if not body.strip() else f"{len(body)} bytes that are not JSON, or cut short"
        raise BadAnswer("not_json", f"the body is {what}") from None


def _mended(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mended(part) for part in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(part) for key, part in value.items()}
    return value


def check_object(found: Mapping[str, object], expected: str) -> None:
    """Refuse an error, or an object of another kind, that came with status 200.

    Compatible servers leave `object` out, so only one that is there and is wrong counts.
    Raises BadAnswer: error_body, wrong_object.
    """
    named = found.get("object")
    if found.get("error") or named == "error":
        raise BadAnswer("error_body", "the body is an error object, though the status is 200")
    if named and (not isinstance(named, str) or not named.startswith(expected) or named.endswith(".chunk")):
        raise BadAnswer("wrong_object", f"the body is not an object of the kind {expected}")


def text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def finish_reason(reason: object, *, default: str) -> str:
    """One of model.Answer's words, or the API's own where it is none of these."""
    if not reason or not isinstance(reason, str):
        return default
    return _REASONS.get(reason, reason)


def worst_reason(reasons: Iterable[str]) -> str:
    """The finish reason of an answer with several choices: the one that is furthest from a whole answer."""
    return max(reasons, key=lambda reason: _SEVERITY.get(reason, 2))


def usage_of(found: object) -> Usage | None:
    """Token counts by either naming (prompt and completion, or input and output), None if unknown.

    Unknown is also what cannot be: a negative, fractional or absurd count, more cached than sent, or nothing
    but zeros, as servers send that do not count. Reasoning tokens that a server counts beside its output
    tokens instead of among them are added to the output.
    """
    if type(found) is not dict:
        return None
    given = _count(counted_in := _first(found, "prompt_tokens", "input_tokens"))
    produced = _count(counted_out := _first(found, "completion_tokens", "output_tokens"))
    total = _count(found.get("total_tokens"))
    cached, written = _details(
        _first(found, "prompt_tokens_details", "input_tokens_details"), "cached_tokens", "cache_write_tokens"
    )
    reasoning, _ = _details(
        _first(found, "completion_tokens_details", "output_tokens_details"), "reasoning_tokens", ""
    )
    if counted_out is None and given is not None and total is not None:
        produced = total - given
    elif counted_in is None and produced is not None and total is not None:
        given = total - produced
    if given is None or produced is None or given < 0 or produced < 0 or given + produced == 0:
        return None
    if cached is None or written is None or reasoning is None or cached + written > given:
        return None
    if reasoning and (reasoning > produced or total == given + produced + reasoning):
        produced += reasoning
    total = max(total or 0, given + produced)
    return Usage(given, cached, written, produced, reasoning, total)


def is_plain(usage: Usage) -> bool:
    """Whether counts are as they should be, so that `usage_of` would give them as they are."""
    return (
        0 < usage.total <= _MOST_TOKENS
        and usage.total == usage.input + usage.output
        and usage.cached_input >= 0
        and usage.cache_write >= 0
        and usage.cached_input + usage.cache_write <= usage.input
        and 0 <= usage.reasoning <= usage.output
    )


def _first(found: dict[str, object], one: str, other: str) -> object:
    value = found.get(one)
    return found.get(other) if value is None else value


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def _details(found: object, one: str, other: str) -> tuple[int | None, int | None]:
    """Two counts of a details object: 0 where it does not say, None where what it says cannot be."""
    if type(found) is not dict:
        return 0, 0
    first, second = found.get(one), found.get(other)
    return (0 if first is None else _count(first)), (0 if second is None else _count(second))
