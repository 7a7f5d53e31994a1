"""Responses: what a request asks for, and what an answer says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runner.endpoints.answer import (
    BadAnswer,
    check_object,
    finish_reason,
    load,
    text_or_none,
    usage_of,
)
from runner.endpoints.request import largest, model_fault, of_value, stream_fault
from runner.endpoints.tools import drawn
from runner.model import Answer, Demand
from runner.tokens import of_text

_PER_ITEM = 4
_EARLIER = ("prompt", "conversation", "previous_response_id")
"""What brings input that the body itself does not hold."""
_OWN_TOOLS = (None, "function", "custom", "local_shell", "apply_patch")
"""The tools that run at the caller's side and so cost nothing but their tokens."""
_TEXTS = ("text", "refusal", "output", "arguments", "input")


def check(body: Mapping[str, object]) -> list[tuple[str, str]]:
    """What any server would refuse this request body for, as (code, message)."""
    faults = [] if body.get("prompt") is not None and body.get("model") is None else model_fault(body)
    faults += stream_fault(body)
    if body.get("background") not in (None, False):
        faults.append(
            (
                "background_unsupported",
                "the request asks for a background answer, which comes later: remove it",
            )
        )
    given = body.get("input")
    if given is None:
        if all(body.get(field) is None for field in _EARLIER):
            faults.append(("missing_input", "the request has no input"))
    elif not isinstance(given, (str, list, tuple)):
        faults.append(("invalid_input", "input is neither a text nor a list"))
    return faults


def demand(body: Mapping[str, object], body_bytes: int, count: Callable[[str], int] = of_text) -> Demand:
    """The tokens that a request asks for. The input is an estimate from its texts, unless `count` counts them.

    Each item is taken to cost what a message of chat does around its text.
    """
    tokens, unbounded = 3, None
    instructions = body.get("instructions")
    if isinstance(instructions, str):
        tokens += _PER_ITEM + count(instructions)
    given = body.get("input")
    if isinstance(given, str):
        tokens += _PER_ITEM + count(given)
    for item in given if isinstance(given, list) else []:
        more, foreign = _of_item(item, count)
        tokens += _PER_ITEM + more
        unbounded = unbounded or foreign
    for field in ("tools", "text"):
        if body.get(field):
            tokens += of_value(body[field])
    return Demand(
        input_tokens=min(tokens, max(body_bytes, 1)),
        max_output=largest(body.get("max_output_tokens")),
        unbounded=unbounded or _unbounded(body),
    )


def _of_item(item: object, count: Callable[[str], int]) -> tuple[int, str | None]:
    """The likely tokens of an input item, and what in it has no bound."""
    if not isinstance(item, (dict, Mapping)):
        return 0, None
    kind = item.get("type")
    if kind == "item_reference":
        return 0, "item_reference"
    tokens, unbounded = 0, None
    content = item.get("content")
    if isinstance(content, str):
        tokens += count(content)
    for part in content if isinstance(content, list) else [item]:
        if not isinstance(part, (dict, Mapping)):
            continue
        tokens += sum(count(part[name]) for name in _TEXTS if isinstance(part.get(name), str))
        foreign = str(part.get("type", ""))
        if foreign.endswith(("_image", "_file", "_audio", "_video", "_screenshot")):
            unbounded = unbounded or f"{foreign} input"
    return tokens, unbounded


def _unbounded(body: Mapping[str, object]) -> str | None:
    for field in _EARLIER:
        if body.get(field) is not None:
            return field
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else []:
        kind = tool.get("type") if isinstance(tool, (dict, Mapping)) else None
        if kind not in _OWN_TOOLS:
            return f"the hosted tool {kind}"
    return None


def read(body: bytes, *, forced_tool: bool = False) -> Answer:
    """What the body of a 200 says. Raises BadAnswer where it is no response, or one that is not ended."""
    found = load(body)
    status = found.get("status")
    if status in ("failed", "cancelled", "queued", "in_progress"):
        raise _not_answered(str(status), found.get("error"))
    check_object(found, "response")
    items = found.get("output")
    if type(items) is not list:
        raise BadAnswer("no_output", "the body has no output")
    texts, refusals, calls = _contents(items)
    reason = "tool_calls" if calls and not texts else "stop"
    if status == "incomplete":
        details = found.get("incomplete_details")
        reason = finish_reason(
            details.get("reason") if isinstance(details, dict) else None, default="incomplete"
        )
    elif not items:
        raise BadAnswer("no_output", "the output of the body is empty")
    elif isinstance(status, str) and status not in ("", "completed"):
        reason = status
    if refusals:
        reason = "refusal"
    output: object = "".join(texts or refusals) if texts or refusals else None
    if calls and (forced_tool or not texts):
        output = drawn(calls, forced=forced_tool)
    return Answer(
        output,
        reason,
        text_or_none(found.get("model")),
        text_or_none(found.get("service_tier")),
        usage_of(found.get("usage")),
    )


def _not_answered(status: str, error: object) -> BadAnswer:
    if status != "failed":
        return BadAnswer(status, f"the response is {status}, not completed")
    code = error.get("code") if isinstance(error, dict) else None
    return BadAnswer(
        code if isinstance(code, str) and code else "failed",
        "the response has the status failed",
        failed=True,
    )


def _contents(items: list[object]) -> tuple[list[str], list[str], list[tuple[object, object]]]:
    """The texts, the refusals and the tool calls of a response's output items."""
    texts: list[str] = []
    refusals: list[str] = []
    calls: list[tuple[object, object]] = []
    for item in items:
        if type(item) is not dict:
            raise BadAnswer("bad_output", "an output item of the body is not an object")
        kind = item.get("type")
        if kind == "function_call":
            calls.append((item.get("name"), item.get("arguments")))
        elif kind == "custom_tool_call":
            calls.append((item.get("name"), item.get("input")))
        elif kind == "message":
            _add_parts(item.get("content"), texts, refusals)
    return texts, refusals, calls


def _add_parts(content: object, texts: list[str], refusals: list[str]) -> None:
    if isinstance(content, str):
        texts.append(content)
        return
    if type(content) is not list:
        raise BadAnswer("bad_output", "a message of the body has no content")
    for part in content:
        if type(part) is not dict:
            raise BadAnswer("bad_output", "a part of a message of the body is not an object")
        text, refusal = part.get("text"), part.get("refusal")
        if part.get("type") == "refusal" and isinstance(refusal, str):
            refusals.append(refusal)
        elif part.get("type") == "output_text" and isinstance(text, str):
            texts.append(text)
