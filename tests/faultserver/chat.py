"""/v1/chat/completions in perfect health."""

from __future__ import annotations

import time
from typing import Any

import orjson

from .own import Own, missing, spent
from .prompt import forced_function, last_user_text, read_tokens, reply_to, tier, tokens


def chat(request: dict[str, Any], ident: str) -> Own:
    """A chat completion, with n choices, a schema's object or a forced function's call where asked for."""
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise missing("messages")
    function = forced_function(request)
    limit = request.get("max_completion_tokens", request.get("max_tokens"))
    text, cut = reply_to(last_user_text(messages), wanted_schema(request, function), limit)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    if function is not None:
        called = {"name": function.get("name"), "arguments": text}
        message["content"] = None
        message["tool_calls"] = [{"id": f"call_{ident}", "type": "function", "function": called}]
    count = request.get("n") or 1
    reason = "length" if cut else "stop"
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": reason}
        for index in range(count)
    ]
    read, wrote = read_tokens(messages), tokens(text) * count
    body = {
        "id": f"chatcmpl-{ident}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request["model"],
        "choices": choices,
        "usage": usage(read, wrote),
        "service_tier": tier(request),
        "system_fingerprint": None,
    }
    return Own(200, orjson.dumps(body), charged=True, usage=spent(read, wrote))


def wanted_schema(request: dict[str, Any], function: dict[str, Any] | None) -> object:
    """The JSON Schema that the answer must satisfy, or None."""
    if function is not None:
        return function.get("parameters") or {}
    wanted = request.get("response_format")
    return (wanted.get("json_schema") or {}).get("schema") if isinstance(wanted, dict) else None


def usage(read: int, wrote: int) -> dict[str, Any]:
    """Usage in chat's words."""
    return {
        "prompt_tokens": read,
        "completion_tokens": wrote,
        "total_tokens": read + wrote,
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
