"""What each fault of the script looks like: error bodies, odd answers, and bytes on the wire."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from runner.simulator.buckets import go_duration, retry_headers
from runner.simulator.refusal import Refusal

_MONEY = MappingProxyType(
    {
        "insufficient_quota": "You exceeded your current quota, please check your plan and billing details.",
        "credit_balance_exhausted": "Your credit balance is exhausted. Add credits to go on.",
        "organization_spend_limit_exceeded": "Your organization has reached its monthly spending limit.",
        "project_spend_limit_exceeded": "Your project has reached its monthly spending limit.",
        "organization_usage_limit_exceeded": "Your organization has reached its approved usage limit.",
        "billing_hard_limit_reached": "Billing hard limit has been reached.",
    }
)
# Name of the fault: status, type, code, message.
_PLAIN: Mapping[str, tuple[int, str, str | None, str]] = MappingProxyType(
    {
        "400": (
            400,
            "invalid_request_error",
            "invalid_value",
            "Invalid value: the simulator's script says so.",
        ),
        "401": (
            401,
            "invalid_request_error",
            "invalid_api_key",
            "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.",
        ),
        "403": (
            403,
            "request_forbidden",
            "unsupported_country_region_territory",
            "Country, region, or territory not supported",
        ),
        "408": (408, "invalid_request_error", "request_timeout", "The request timed out. Please try again."),
        "409": (409, "invalid_request_error", "conflict", "The resource is locked by another request."),
        "413": (413, "invalid_request_error", "request_too_large", "The request body is too large."),
        "422": (422, "invalid_request_error", "unprocessable_entity", "The request could not be processed."),
        "resource_unavailable": (429, "rate_limit_error", "resource_unavailable", "Resource Unavailable"),
        "500": (
            500,
            "server_error",
            None,
            "The server had an error while processing your request. Sorry about that!",
        ),
        "503": (503, "service_unavailable_error", None, "The service is temporarily unavailable."),
        "504": (504, "server_error", "gateway_timeout", "The gateway timed out."),
        "529": (529, "overloaded_error", "overloaded", "Overloaded"),
    }
)
# What the injected refusals ask for, in seconds: short, so that rehearsals stay short.
_PAUSE = 0.1

_PAGE = (
    "<!DOCTYPE html>\n<html><head><title>{title}</title></head>\n"
    "<body><center><h1>{title}</h1></center><hr><center>simulated gateway</center></body></html>\n"
)


def refusal(name: str, model: str, *, wall: float) -> Refusal:
    """The error answer of a fault; `wall` is the time of day, in seconds since 1970, for HTTP dates."""
    if name in _PLAIN:
        status, kind, code, message = _PLAIN[name]
        return Refusal(status, message, kind=kind, code=code)
    if name == "404":
        message = f"The model `{model}` does not exist or you do not have access to it."
        return Refusal(404, message, code="model_not_found")
    if name == "money" or name in _MONEY:
        code = "insufficient_quota" if name == "money" else name
        return Refusal(429, _MONEY[code], kind="insufficient_quota", code=code)
    if name == "slow_down":
        message = "Slow down: your rate of requests rose too fast. Reduce it, then raise it step by step."
        return Refusal(429, message, kind="rate_limit_error", code="slow_down", headers={"retry-after": "1"})
    if name == "overloaded":
        message = "The server is currently overloaded with other requests. Please try again later."
        return Refusal(
            503,
            message,
            kind="service_unavailable_error",
            code="server_is_overloaded",
            headers={"retry-after": "1"},
        )
    headers = retry_headers(_PAUSE)
    if name == "429-date":
        headers = {"retry-after": email.utils.formatdate(wall + 1.5, usegmt=True)}
    return Refusal(
        429,
        f"Rate limit reached for {model} in organization org-sim on requests per min (RPM): Limit 60, "
        f"Used 60, Requested 1. Please try again in {go_duration(_PAUSE)}. "
        "Visit https://platform.openai.com/account/rate-limits to learn more.",
        kind="requests",
        code="rate_limit_exceeded",
        headers=headers,
    )


def page(name: str) -> tuple[int, bytes]:
    """Status and HTML of a gateway's page."""
    titles = {
        "502-html": "502 Bad Gateway",
        "503-html": "503 Service Temporarily Unavailable",
        "524-html": "524 A timeout occurred",
    }
    title = titles.get(name, "Welcome to the network")
    return int(name[:3]) if name in titles else 200, _PAGE.format(title=title).encode()


def disfigured(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """The body of an odd 200, made from a sound one; an error body where the endpoint has no such answer."""
    odd = dict(body)
    if name == "error-200":
        return _error_body()
    if name == "no-usage":
        odd.pop("usage", None)
        return odd
    if name == "bad-usage":
        odd["usage"] = _negated(odd["usage"])
        return odd
    listed = "choices" if "choices" in odd else "output" if "output" in odd else "data"
    if name in ("no-choices", "null-choices"):
        odd[listed] = [] if name == "no-choices" else None
        return odd
    if listed == "choices" and name != "failed-200":
        odd["choices"] = [_odd_choice(name, choice) for choice in odd["choices"]]
        return odd
    if listed == "output":
        return _odd_response(name, odd)
    return _error_body()


def _odd_choice(name: str, choice: dict[str, Any]) -> dict[str, Any]:
    message = dict(choice["message"])
    reason = {"length": "length", "incomplete": "length", "content_filter": "content_filter"}.get(
        name, "stop"
    )
    if name == "refusal":
        message["refusal"], message["content"] = "[simulated] I'm sorry, I can't help with that.", None
    elif name == "incomplete":
        message["content"] = ""
    elif name == "content_filter":
        message["content"] = None
    else:
        message["content"] = _half(message["content"] or "")
    message.pop("tool_calls", None)
    return {**choice, "message": message, "finish_reason": reason}


def _odd_response(name: str, odd: dict[str, Any]) -> dict[str, Any]:
    if name == "failed-200":
        error = {"code": "server_error", "message": "The model failed to generate a response."}
        return {**odd, "status": "failed", "error": error, "output": [], "usage": None, "completed_at": None}
    if name == "refusal":
        part: dict[str, Any] = {
            "type": "refusal",
            "refusal": "[simulated] I'm sorry, I can't help with that.",
        }
        return {**odd, "output": [_message(odd["output"][0], part, "completed")]}
    reason = "content_filter" if name == "content_filter" else "max_output_tokens"
    output = []
    if name == "length":
        item = odd["output"][0]
        text = item["content"][0]["text"] if "content" in item else item["arguments"]
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": _half(text)}
        output = [_message(item, part, "incomplete")]
    return {
        **odd,
        "status": "incomplete",
        "incomplete_details": {"reason": reason},
        "output": output,
        "completed_at": None,
    }


def _message(item: dict[str, Any], part: dict[str, Any], status: str) -> dict[str, Any]:
    return {"id": item["id"], "type": "message", "status": status, "role": "assistant", "content": [part]}


def _half(text: str) -> str:
    return text[: len(text) // 2]


def _negated(usage: dict[str, Any]) -> dict[str, Any]:
    return {name: -1 - count if isinstance(count, int) else count for name, count in usage.items()}


def _error_body() -> dict[str, Any]:
    return Refusal(200, "The server had an error.", kind="server_error").body
