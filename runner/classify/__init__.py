"""What a reply means: for its row, for its model, for the run. The only place that knows 429, 5xx and
insufficient_quota.

    no answer    never sent                              NOT_SENT; no trusted certificate, no proxy: NO_ACCESS
                 sent, then silence, a reset, a cut      AMBIGUOUS
    no status    a line of a batch that was not run      NOT_RUN, with any status
                 one that was, to no answer              AMBIGUOUS; an error that it names, by that error
    200          the shape of an answer                  ANSWERED
                 anything else                           AMBIGUOUS; an error that it names, by that error
    301, 308     moved for good: the URL is wrong        MODEL_ERROR, for it is so for every row
    other 3xx    not executed; a login page, a portal    TRY_AGAIN
    400, 413 …   the request itself                      ROW_ERROR
    401, 403     the key, the region, the permission     NO_ACCESS; about the content: ROW_ERROR
    402          money, and its codes with any 4xx       NO_MONEY
    404, 405     the model, or the URL                   MODEL_ERROR; about another object: ROW_ERROR
    408, 409 …   the moment                              TRY_AGAIN
    429          speed                                   RATE_LIMITED; larger than the limit itself: ROW_ERROR
    503          with Retry-After or a word of overload  OVERLOADED
    other 5xx    anybody's guess                         AMBIGUOUS

A finding is marked `outage` where a gateway or the whole server fails rather than one request: 502, 503,
504, 511, 520 to 530, calls that never left, silence and resets. A plain 500, a cut body and a 200 of the
wrong shape are not: one request can bring those about.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Protocol
from urllib.parse import urlsplit

from runner.classify.error_body import ErrorBody, described, error_of, shown
from runner.classify.waits import retry_wait
from runner.model import Answer, Finding, Kind, Reply

__all__ = ["classify", "error_of", "retry_wait", "shown"]

_MONEY = {
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "billing_hard_limit_reached",
    "billing_not_active",
}
_SPEED = {"rate_limit_exceeded", "rate_limit_error", "slow_down", "too_many_requests", "429"}
_OVERLOAD = {
    "server_is_overloaded",
    "service_unavailable_error",
    "service_unavailable",
    "overloaded_error",
    "overloaded",
    "engine_overloaded",
    "slow_down",
}
_OVERLOAD_WORDS = re.compile(r"\boverloaded\b|\bslow down\b|\b(?:at|over) capacity\b", re.IGNORECASE)
_CONTENT = re.compile(r"content_?(?:policy|filter)|moderation|invalid_prompt|responsibleai", re.IGNORECASE)
_FLAGGED = re.compile(r"\bflagged\b|\bcontent policy\b|\bmoderation\b", re.IGNORECASE)
_NO_MODEL_CODES = {"model_not_found", "deploymentnotfound", "model_not_exist", "invalid_model"}
_NO_MODEL = re.compile(
    r"^(?:the\s+)?(?:model|engine|deployment)\b.{0,300}?"
    r"\b(?:does not exist|not exist|not found|is not available)"
    r"|^invalid model (?:id|name)|^unknown model|\bno such model\b",
    re.IGNORECASE | re.DOTALL,
)
_NO_OBJECT = re.compile(
    r"^(?:the\s+)?(?:no\s+)?"
    r"(?:previous response|response|conversation|item|file|vector ?store|prompt|container)\b"
    r".{0,300}?\b(?:not found|found with|does not exist)",
    re.IGNORECASE | re.DOTALL,
)
_TOO_LARGE = re.compile(r"\brequest too large\b", re.IGNORECASE)
_LIMIT = re.compile(
    r"\blimit:?\s+([\d,]{1,20}).{0,80}?\brequested:?\s+([\d,]{1,20})", re.IGNORECASE | re.DOTALL
)
_CONTEXT = re.compile(r"maximum context length|context length exceeded|context window", re.IGNORECASE)
_NOT_RUN = {"batch_expired", "batch_cancelled", "batch_failed"}
_FAILED_BY_CHANCE = {"server_error", "vector_store_timeout", "failed"} | _OVERLOAD
_NEVER_CONNECTS = re.compile(
    r"no trusted TLS connection|certificate[ _]verify[ _]failed|self.signed certificate", re.IGNORECASE
)
_PROXY_REFUSES = re.compile(r"proxy answered 407|proxy authentication required", re.IGNORECASE)

_TRY_AGAIN = {408, 409, 421, 423, 424, 425}
_WRONG_URL = {404, 405, 410}
_MOVED = {301, 308}
_OUTAGE = {502, 503, 504, 511, 598, 599, *range(520, 531)}


_ANSWERED = Finding(Kind.ANSWERED, status=200)


class AnswerReader(Protocol):
    """The endpoint that was asked: `read` raises a ValueError, with `code` and `failed`, for a body that has
    not the shape of its answers."""

    @property
    def read(self) -> _Read: ...


class _Read(Protocol):
    def __call__(self, body: bytes, *, forced_tool: bool = False) -> Answer: ...


def classify(
    reply: Reply, endpoint: AnswerReader, *, now: datetime, max_wait: float, forced_tool: bool = False
) -> tuple[Finding, Answer | None]:
    """What a reply means, and the answer in it if it holds one. Never raises.

    `now` is an aware time, to read dates by. `Finding.wait` is what the server asks for, unclamped; where it
    is longer than `max_wait` seconds the message says so. Messages hold no key and no prompt.
    """
    if reply.status is None:
        return _unanswered(reply), None
    if reply.status == 200:
        try:
            return _ANSWERED, endpoint.read(reply.body, forced_tool=forced_tool)
        except ValueError as flaw:
            found = _flawed(reply, flaw, now)
    elif 400 <= reply.status < 500:
        found = _client_error(reply, error_of(reply.body), now)
    elif 300 <= reply.status < 400:
        found = _redirect(reply, now)
    else:
        found = _server_error(reply, error_of(reply.body), now)
    if found.wait is not None and found.wait > max_wait:
        asks = f"(it asks to wait {found.wait:.0f} s, longer than max_wait)"
        found = Finding(
            found.kind, found.code, f"{found.message} {asks}".strip(), found.status, found.wait, found.outage
        )
    return found, None


def _unanswered(reply: Reply) -> Finding:
    detail, fault = shown(reply.detail), reply.fault or "no_answer"
    if fault in _NOT_RUN:
        return Finding(Kind.NOT_RUN, fault, detail)
    if fault == "line_error":
        return _line_error(reply)
    if reply.sent:
        return Finding(Kind.AMBIGUOUS, fault, detail, outage=fault in ("timeout", "reset", "connect"))
    if _NEVER_CONNECTS.search(reply.detail):
        return Finding(Kind.NO_ACCESS, "tls_error", detail)
    if _PROXY_REFUSES.search(reply.detail):
        return Finding(Kind.NO_ACCESS, "proxy_authentication", detail)
    return Finding(Kind.NOT_SENT, fault, detail, outage=True)


def _line_error(reply: Reply) -> Finding:
    """A line of a batch without an HTTP answer, or with one of no status. It may have been executed, unless its error
    says otherwise."""
    error = error_of(reply.body)
    words = {error.code, error.type}
    code, message = _code(error, "line_error"), described(reply.body) or shown(reply.detail)
    if words & _NOT_RUN:
        return Finding(Kind.NOT_RUN, code, message)
    if words & _MONEY:
        return Finding(Kind.NO_MONEY, _money_code(error), message)
    if words & _SPEED:
        return Finding(Kind.RATE_LIMITED, _speed_code(error), message)
    if _is_about_model(error):
        return Finding(Kind.MODEL_ERROR, "model_not_found", message)
    return Finding(Kind.AMBIGUOUS, code, message)


def _flawed(reply: Reply, flaw: ValueError, now: datetime) -> Finding:
    """A 200 without an answer. It may have been charged, unless the error in it says otherwise."""
    code, failed = str(getattr(flaw, "code", "bad_answer")), bool(getattr(flaw, "failed", False))
    if not failed and code != "error_body":
        return Finding(Kind.AMBIGUOUS, code, shown(str(flaw)), 200)
    error = error_of(reply.body)
    words = {error.code, error.type}
    message = shown(f"{flaw}: {error.message}" if error.message else str(flaw))
    if words & _MONEY:
        return Finding(Kind.NO_MONEY, _money_code(error), message, 200)
    if words & _SPEED:
        return Finding(
            Kind.RATE_LIMITED, _speed_code(error), message, 200, retry_wait(reply.headers, error.message, now)
        )
    if failed and code not in _FAILED_BY_CHANCE:
        return Finding(Kind.ROW_ERROR, code, message, 200)
    return Finding(Kind.AMBIGUOUS, code, message, 200)


def _client_error(reply: Reply, error: ErrorBody, now: datetime) -> Finding:
    status = reply.status
    assert status is not None
    words = {error.code, error.type}
    code, message = _code(error, f"http_{status}"), _message(reply)
    if words & _NOT_RUN:
        return Finding(Kind.NOT_RUN, code, message, status)
    if status == 402 or words & _MONEY:
        return Finding(Kind.NO_MONEY, _money_code(error) or code, message, status)
    if status == 429:
        return _too_many(reply, error, now)
    if status == 407:
        return Finding(Kind.NO_ACCESS, "proxy_authentication", message, status)
    if status in (400, 403, *_WRONG_URL) and _is_about_model(error):
        return Finding(Kind.MODEL_ERROR, "model_not_found", message, status)
    if status in _WRONG_URL:
        return _not_found(error, code, message, status)
    if status == 401 or (status == 403 and not _is_about_content(error)):
        return Finding(Kind.NO_ACCESS, code, message, status)
    if status in _TRY_AGAIN:
        wait = retry_wait(reply.headers, error.message, now, resets=False)
        return Finding(Kind.TRY_AGAIN, code, message, status, wait)
    if status == 499:
        # A proxy gave the call up; the server behind it may have gone on.
        return Finding(Kind.AMBIGUOUS, code, message, status)
    if _is_too_large(error.message):
        code = "request_too_large"
    elif _CONTEXT.search(error.message):
        code = "context_length_exceeded"
    return Finding(Kind.ROW_ERROR, code, message, status)


def _too_many(reply: Reply, error: ErrorBody, now: datetime) -> Finding:
    message = _message(reply)
    if _is_too_large(error.message):
        return Finding(Kind.ROW_ERROR, "request_too_large", message, 429)
    wait = retry_wait(reply.headers, error.message, now)
    return Finding(Kind.RATE_LIMITED, _speed_code(error), message, 429, wait)


def _not_found(error: ErrorBody, code: str, message: str, status: int) -> Finding:
    if error.code == "previous_response_not_found" or _NO_OBJECT.search(error.message):
        return Finding(Kind.ROW_ERROR, code, message, status)
    advice = "There is no such address at this server: check the base URL, and the model's name."
    return Finding(Kind.MODEL_ERROR, code, shown(f"{message} {advice}"), status)


def _redirect(reply: Reply, now: datetime) -> Finding:
    status = reply.status
    assert status is not None
    message = f"HTTP {status}: the server sends us to {_place(reply.headers.get('location', ''))}"
    if status in _MOVED:
        return Finding(Kind.MODEL_ERROR, f"http_{status}", f"{message}. Check the base URL.", status)
    # Nothing was executed. A portal or a login page in the way is an outage for all rows alike.
    wait = retry_wait(reply.headers, "", now, resets=False)
    return Finding(Kind.TRY_AGAIN, f"http_{status}", message, status, wait, outage=True)


def _server_error(reply: Reply, error: ErrorBody, now: datetime) -> Finding:
    """5xx, and what is no HTTP status of an answer at all: 1xx, 2xx other than 200, beyond 599."""
    status = reply.status
    assert status is not None
    kind = Kind.NOT_RUN if error.code in _NOT_RUN else Kind.AMBIGUOUS
    wait = retry_wait(reply.headers, error.message, now, resets=False) if status >= 500 else None
    if status == 503 and kind is not Kind.NOT_RUN:
        says_when = bool({"retry-after", "retry-after-ms"} & reply.headers.keys())
        overloaded = {error.code, error.type} & _OVERLOAD or _OVERLOAD_WORDS.search(error.message)
        if says_when or overloaded:
            kind = Kind.OVERLOADED
    return Finding(
        kind, _code(error, f"http_{status}"), _message(reply), status, wait, outage=status in _OUTAGE
    )


def _code(error: ErrorBody, otherwise: str) -> str:
    """The server's code, or its type, where they say more than the status does."""
    for word in (error.code, error.type):
        if word and not word.isdigit():
            return shown(word)[:100]
    return otherwise


def _speed_code(error: ErrorBody) -> str:
    if "slow_down" in (error.code, error.type):
        return "slow_down"
    if error.code == "resource_unavailable" or re.search(
        "resource[ _]unavailable", error.message, re.IGNORECASE
    ):
        return "resource_unavailable"
    return shown(error.code)[:100] if error.code and not error.code.isdigit() else "rate_limit_exceeded"


def _message(reply: Reply) -> str:
    return described(reply.body) or f"the server answered HTTP {reply.status} without a reason"


def _money_code(error: ErrorBody) -> str:
    """Which limit was met. The type is often insufficient_quota whichever it was; the code tells them apart."""
    return next((word for word in (error.code, error.type) if word in _MONEY), "")


def _is_about_model(error: ErrorBody) -> bool:
    return bool({error.code.lower(), error.type.lower()} & _NO_MODEL_CODES or _NO_MODEL.search(error.message))


def _is_about_content(error: ErrorBody) -> bool:
    return bool(_CONTENT.search(f"{error.code} {error.type}") or _FLAGGED.search(error.message))


def _is_too_large(message: str) -> bool:
    """Whether a request is larger than the limit itself, so that no waiting helps."""
    sizes = _LIMIT.search(message[:4000])
    if sizes is not None:
        limit, requested = (int("0" + size.replace(",", "")) for size in sizes.groups())
        return requested > limit
    return _TOO_LARGE.search(message) is not None


def _place(location: str) -> str:
    """Origin and path of an address: its query may hold secrets."""
    try:
        parts = urlsplit(location)
        host = parts.hostname or ""
    except ValueError:
        return "an address that cannot be read"
    if not location:
        return "an address that it does not name"
    return shown(f"{parts.scheme}://{host}{parts.path}" if host else parts.path)
