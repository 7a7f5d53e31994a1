"""/v1/responses in perfect health."""

from __future__ import annotations

import time
from typing import Any

import orjson

from .own import Own, missing, spent
from .prompt import forced_function, last_user_text, read_tokens, reply_to, tier, tokens


def echoed(request: dict[str, Any]) -> dict[str, Any]:
    """The request's fields as the API repeats them, with their defaults."""
    defaults: dict[str, Any] = {
        "background": False,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "store": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "user": None,
    }
    return defaults | {name: request[name] for name in defaults if request.get(name) is not None}


def responses(request: dict[str, Any], ident: str) -> Own:
    """A response: a message, or a forced function's call; incomplete where max_output_tokens cuts it."""
    asked = request.get("input")
    if not isinstance(asked, (str, list)) or not asked:
        raise missing("input")
    items = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    form = (request.get("text") or {}).get("format") or {"type": "text"}
    function = forced_function(request)
    schema = form.get("schema") if function is None else function.get("parameters") or {}
    text, cut = reply_to(last_user_text(items), schema, request.get("max_output_tokens"))
    state = "incomplete" if cut else "completed"
    read, wrote = read_tokens(items) + tokens(request.get("instructions") or ""), tokens(text)
    now = int(time.time())
    body = echoed(request) | {
        "id": f"resp_{ident}",
        "object": "response",
        "created_at": now,
        "completed_at": None if cut else now,
        "status": state,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "model": request["model"],
        "output": [output_item(text, state, function, ident)],
        "text": {"format": form, "verbosity": "medium"},
        "service_tier": tier(request),
        "usage": {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": wrote,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read + wrote,
        },
    }
    return Own(200, orjson.dumps(body), charged=True, usage=spent(read, wrote))


def output_item(text: str, state: str, function: dict[str, Any] | None, ident: str) -> dict[str, Any]:
    """The one item of the output."""
    if function is None:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        item: dict[str, Any] = {"id": f"msg_{ident}", "type": "message", "role": "assistant"}
        return item | {"content": [part], "status": state}
    item = {"id": f"fc_{ident}", "type": "function_call", "call_id": f"call_{ident}"}
    return item | {"name": function.get("name"), "arguments": text, "status": state}
