"""The Batch API's answers as our words, whatever a server sends: missing fields, nulls, empty ids, odd bodies.

Each `read_...` takes the body of a 2xx and gives None where it is not what was asked for. `said_no` takes all
other replies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal

import orjson

from runner.classify import error_of, retry_wait, shown
from runner.classify.error_body import ErrorBody, described
from runner.model import Reply, Usage
from runner.provider import failure_kind, names_no_file
from runner.remote import (
    Created,
    Deleted,
    Failure,
    FileSeen,
    Listed,
    Page,
    Refused,
    RemoteBatch,
    Unclear,
    Why,
)

Operation = Literal["upload", "create", "list", "object"]
"""What was asked: a POST of ours, a list, or something about an object that has an id."""

MOST_FAILURES = 1_000
_MOMENT = frozenset({408, 409, 499})
_LATER = frozenset({421, 423, 424, 425})
_PAGE = re.compile(rb"\s*<(?:!doctype|html|head|body|\?xml)", re.IGNORECASE)
_NO_ROUTE = re.compile(r"^(?:invalid url|unknown request url|unrecognized request url)\b", re.IGNORECASE)


# --- what a server refuses


def said_no(
    reply: Reply, operation: Operation, *, now: datetime, asked: str, origin: str
) -> Refused | Unclear:
    """What a reply that is no 2xx means. `asked` names what was asked ("the create of a batch").

    Refused only where the server surely did nothing. Messages hold no key that looks like one.
    """
    status = reply.status
    if status is None:
        return _unanswered(reply, operation, asked, origin)
    error = error_of(reply.body)
    said = described(reply.body) or "no reason given"
    message = f"{origin} answered {asked} with HTTP {status}: {said}"
    if 300 <= status < 400:
        message = f"{origin} answered {asked} with HTTP {status}: it sends us elsewhere. Check the base URL"
    why = _why(status, error, operation, reply.body)
    if why is None:
        return Unclear(message)
    wait = 0.0
    if why in (Why.NOT_NOW, Why.QUEUE_FULL):
        wait = retry_wait(reply.headers, error.message, now, resets=why is Why.NOT_NOW) or 0.0
    return Refused(why, message, wait, status, shown(error.code or error.type)[:100])


def _unanswered(reply: Reply, operation: Operation, asked: str, origin: str) -> Refused | Unclear:
    message = f"{origin} {reply.detail or 'gave no answer'} ({asked})"
    if reply.fault in ("tls_error", "proxy_authentication"):
        return Refused(Why.NO_ACCESS, message, code=reply.fault)
    if not reply.sent and operation in ("upload", "create"):
        return Refused(Why.NOT_NOW, message, code=reply.fault or "")
    return Unclear(message)


def _why(status: int, error: ErrorBody, operation: Operation, body: bytes) -> Why | None:
    """Why a server that surely did nothing says no; None where it may have done something all the same."""
    if status in (404, 405, 501):
        return _why_not_there(status, error, operation, body)
    if not 400 <= status < 500:
        # A page that moved for good took no upload; a create is not bet on that.
        return Why.FINAL if status in (301, 308) and operation == "upload" else None
    if status in _MOMENT:
        return None
    if status in (401, 407):
        return Why.NO_ACCESS
    kind = failure_kind(error.code or error.type, error.message)
    if kind == "other":
        kind = failure_kind(error.type, error.message)
    if kind == "queue_full":
        return Why.QUEUE_FULL
    if kind == "money":
        return Why.NO_MONEY
    if status == 429:
        return Why.NOT_NOW
    if status == 413:
        return Why.FINAL
    if not _is_json(body) and not (status == 403 and operation in ("upload", "object")):
        # A gateway speaks here: what is behind it may have heard the request, or may be asked in a minute.
        return None
    if status == 402:
        return Why.NO_MONEY
    if status == 403:
        return Why.NO_ACCESS
    if status in _LATER:
        return Why.NOT_NOW
    if status == 410 and operation == "object":
        return Why.FILE_GONE
    return Why.FILE_GONE if operation == "create" and names_no_file(error.message) else Why.FINAL


def _why_not_there(status: int, error: ErrorBody, operation: Operation, body: bytes) -> Why | None:
    if operation in ("upload", "create"):
        if names_no_file(error.message):
            return Why.FILE_GONE
        about_model = failure_kind(error.code) == "model" or failure_kind(error.type) == "model"
        return Why.FINAL if about_model and status == 404 else Why.CANNOT
    if status == 404 and _PAGE.match(body):
        # A gateway that does not find the server just now. It must not pass for the server's own word.
        return None
    if operation == "object" and status == 404 and not _NO_ROUTE.search(error.message):
        return Why.FILE_GONE
    return Why.CANNOT


def _is_json(body: bytes) -> bool:
    return isinstance(_parsed(body), (dict, list))


# --- what a server answers


def read_file(body: bytes) -> FileSeen | None:
    """The file that a body shows."""
    return file_of(_parsed(body))


def read_created(body: bytes, file_id: str) -> Created | None:
    """The batch that a create made of a file; None if the body shows none, or one of another file."""
    found = _mapping(_parsed(body))
    ident = _id(found.get("id"))
    return Created(ident) if ident and _id(found.get("input_file_id")) in (None, file_id) else None


def read_deleted(body: bytes) -> Deleted | None:
    """What is said of a file that was to be deleted; None if it is not said to be gone."""
    found = _mapping(_parsed(body))
    gone = bool(found) and found.get("deleted", True) is True
    return Deleted() if gone or not body.strip() else None


def read_page(body: bytes, after: str | None, *, limit: int) -> Page | None:
    """The page of a list of batches that was asked for after an id."""
    items = read_items(body, after, limit=limit)
    if items is None:
        return None
    listed = [one for one in map(_listed, items[0]) if one is not None]
    return Page(tuple(listed), items[1])


def read_newest(body: bytes, *, limit: int) -> list[RemoteBatch] | None:
    """The batches of the first page of a list."""
    items = read_items(body, None, limit=limit)
    return None if items is None else [one for one in map(batch_of, items[0]) if one is not None]


def read_items(body: bytes, after: str | None, *, limit: int) -> tuple[list[Mapping[str, Any]], bool] | None:
    """The objects of a page that have an id, and whether more follow."""
    found = _parsed(body)
    data = found.get("data") if isinstance(found, dict) else found
    if not isinstance(data, list):
        return None
    items: list[Mapping[str, Any]] = [one for one in data if isinstance(one, dict) and _id(one.get("id"))]
    more = found.get("has_more") if isinstance(found, dict) else None
    if not isinstance(more, bool):
        more = len(data) >= limit
    # A server that pages by no cursor sends the same page for ever.
    repeats = after is not None and any(one["id"] == after for one in items)
    return items, more and bool(items) and not repeats


def read_batch(body: bytes, batch_id: str | None) -> RemoteBatch | None:
    """The batch that a body shows; None if it is another than the one asked for."""
    found = batch_of(_parsed(body))
    return None if found is None or (batch_id is not None and found.id != batch_id) else found


def file_of(found: object) -> FileSeen | None:
    """A file object as one of our words. `created_at` is 0.0 where the server does not say."""
    if not isinstance(found, Mapping):
        return None
    ident = _id(found.get("id"))
    if ident is None:
        return None
    return FileSeen(
        ident,
        _time(found.get("created_at")) or 0.0,
        name=_text(found.get("filename")),
        size=_count(found.get("bytes")),
        purpose=_text(found.get("purpose")),
    )


def batch_of(found: object) -> RemoteBatch | None:
    """A batch object as one of our words."""
    if not isinstance(found, Mapping):
        return None
    ident, status = _id(found.get("id")), _text(found.get("status"))
    if ident is None or not status:
        return None
    counts = _mapping(found.get("request_counts"))
    return RemoteBatch(
        ident,
        shown(status),
        endpoint=_id(found.get("endpoint")),
        input_file_id=_id(found.get("input_file_id")),
        output_file_id=_id(found.get("output_file_id")),
        error_file_id=_id(found.get("error_file_id")),
        created_at=_time(found.get("created_at")),
        expires_at=_time(found.get("expires_at")),
        failures=_failures(found.get("errors")),
        total=_count(counts.get("total")),
        completed=_count(counts.get("completed")),
        failed=_count(counts.get("failed")),
        usage=_usage(found.get("usage")),
        model=_id(found.get("model")),
        metadata=_metadata(found.get("metadata")),
    )


def _listed(found: Mapping[str, Any]) -> Listed | None:
    ident = _id(found.get("id"))
    if ident is None:
        return None
    metadata = _metadata(found.get("metadata"))
    attempt = metadata.get("attempt", "")
    created_at = _time(found.get("created_at"))
    return Listed(
        ident,
        # Whatever does not say when it was made may have been made just now.
        math.inf if created_at is None else created_at,
        _text(found.get("status")) == "failed",
        _id(found.get("input_file_id")),
        metadata.get("shard") or None,
        int(attempt) if attempt.isascii() and attempt.isdigit() else None,
    )


def _failures(errors: object) -> tuple[Failure, ...]:
    data = errors.get("data") if isinstance(errors, Mapping) else errors
    if not isinstance(data, list):
        return ()
    found = []
    for one in data[:MOST_FAILURES]:
        if isinstance(one, Mapping):
            line = _count(one.get("line"))
            param = _text(one.get("param"))
            found.append(
                Failure(
                    shown(_text(one.get("code")))[:100],
                    shown(_text(one.get("message"))),
                    line or None,
                    shown(param)[:200] or None,
                )
            )
    return tuple(found)


def _usage(found: object) -> Usage | None:
    usage = _mapping(found)
    read = _count(usage.get("input_tokens", usage.get("prompt_tokens")))
    wrote = _count(usage.get("output_tokens", usage.get("completion_tokens")))
    if read is None and wrote is None:
        return None
    read, wrote = read or 0, wrote or 0
    cached = _mapping(usage.get("input_tokens_details", usage.get("prompt_tokens_details")))
    thought = _mapping(usage.get("output_tokens_details", usage.get("completion_tokens_details")))
    total = _count(usage.get("total_tokens"))
    return Usage(
        input=read,
        cached_input=min(read, _count(cached.get("cached_tokens")) or 0),
        cache_write=min(read, _count(cached.get("cache_write_tokens")) or 0),
        output=wrote,
        reasoning=min(wrote, _count(thought.get("reasoning_tokens")) or 0),
        total=read + wrote if total is None else total,
    )


def _metadata(found: object) -> Mapping[str, str]:
    if not isinstance(found, Mapping):
        return MappingProxyType({})
    return MappingProxyType({name: text for name, text in found.items() if isinstance(text, str)})


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace"))
    except orjson.JSONDecodeError:
        return None


def _mapping(found: object) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def _id(found: object) -> str | None:
    return found if isinstance(found, str) and found else None


def _text(found: object) -> str:
    if isinstance(found, bool):
        return ""
    return str(found) if isinstance(found, (str, int)) else ""


def _count(found: object) -> int | None:
    if isinstance(found, int) and not isinstance(found, bool) and found >= 0:
        return found
    return None


def _time(found: object) -> float | None:
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None
    return float(found) if found > 0 else None
