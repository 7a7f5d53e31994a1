"""What a line of a batch's results is as a reply to its request, and what stands for one that no line tells of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from runner.model import Reply
from runner.record.result import ResultLine

_ERROR_BODY = re.compile(rb'\{\s*"error"\s*:\s*[^n\s]')

_UNTOLD: Mapping[str, Reply] = MappingProxyType(
    {
        one.fault: one
        for one in (
            Reply(
                None,
                fault="unreported",
                detail="the results of its batch do not tell of it: it may have been executed",
            ),
            Reply(
                None,
                fault="results_gone",
                detail="its batch was executed and the results cannot be had: `runner retry RUN` asks, and pays, again",
            ),
            Reply(
                None,
                fault="batch_unknown",
                detail="whether its batch was created is not known, and this server does not tell: `runner retry RUN` "
                "asks again, and may pay twice",
            ),
            Reply(
                None,
                fault="batch_expired",
                detail="its batch expired before it was its turn",
                sent=False,
            ),
            Reply(
                None,
                fault="batch_cancelled",
                detail="its batch was cancelled before it was its turn",
                sent=False,
            ),
            Reply(
                None,
                fault="batch_failed",
                detail="its batch failed before it was its turn",
                sent=False,
            ),
        )
        if one.fault is not None
    }
)


def reply_of(line: ResultLine) -> Reply:
    """A line as the reply to its request; what it means, others decide. A line without any status of HTTP has the fault
    "line_error", and as its body what the line gives as an error."""
    headers = {"x-request-id": line.request_id} if line.request_id else {}
    status = line.status
    if status is None and line.body:
        # Whoever leaves the status out leaves it to the body to say what it is.
        status = 200
    if status is not None and 100 <= status < 600 and (line.body or not line.error):
        return Reply(status, headers, line.body)
    body = line.body or (b'{"error":%b}' % line.error if line.error else b"")
    said = "" if status is None else f" and the status {status}"
    return Reply(
        None, headers, body, "line_error", f"its line in the results of its batch has no answer{said}"
    )


def is_answer(line: ResultLine) -> bool:
    """Whether a line is an answer, as far as can be told from outside."""
    return line.status in (200, None) and line.body[:1] == b"{" and _ERROR_BODY.match(line.body) is None


def untold(word: str) -> Reply:
    """What stands for the reply to a line that no file tells of: unreported, results_gone or batch_unknown, which may
    have been executed, or batch_expired, batch_cancelled or batch_failed, which was not."""
    return _UNTOLD[word]
