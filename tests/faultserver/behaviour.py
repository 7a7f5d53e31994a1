"""What the server does with one request: which bytes it sends, how it ends, and whether it did the work.

A `Behaviour` is a value. The functions below make the usual ones; `.after(seconds)` and `.held(gate)` make
the same behaviour come later. `executed` is what the ledger charges: it says that the work was done, whether
or not the client ever learns of it.
"""

from __future__ import annotations

import gzip
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from enum import Enum

import orjson

from .gate import Gate

HeaderPairs = Sequence[tuple[str, str]]

HTML = b"<!DOCTYPE html><html><head><title>%d</title></head><body><h1>upstream trouble</h1></body></html>\n"

JSON_TYPE = ("Content-Type", "application/json")
HTML_TYPE = ("Content-Type", "text/html; charset=UTF-8")


class End(Enum):
    """What becomes of the connection once the bytes of the answer are out."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    SILENCE = "silence"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """One request's fate.

    `body` None stands for the API's own answer to the request. `raw` replaces head and body alike. `cut`
    keeps that many bytes (negative: all but so many) of the body, or of the whole message if `cut_head`;
    `cut_share` keeps that share of the body. `late` does the work only so long after the request came.
    `length_error` is added to the true Content-Length. `chunk` frames the body in chunks of that many bytes.
    `drip` is (bytes, seconds between them). `filler` counts blanks sent after the body.
    `idle` passes, nothing being read, between the answer and the connection's end. Seconds throughout.
    """

    name: str
    executed: bool
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    raw: bytes | None = None
    latency: float = 0.0
    gate: Gate | None = None
    end: End = End.KEEP
    cut: int | None = None
    cut_head: bool = False
    length_error: int = 0
    chunk: int = 0
    drip: tuple[int, float] | None = None
    filler: int = 0
    idle: float = 0.0
    cut_share: float | None = None
    late: float | None = None

    def __post_init__(self) -> None:
        if self.body is None and self.raw is None and not self.executed:
            raise ValueError(f"behaviour {self.name!r}: what was not executed has no answer of the API's own")

    def after(self, seconds: float) -> Behaviour:
        """The same, that many seconds later."""
        return replace(self, latency=self.latency + seconds)

    def held(self, gate: Gate) -> Behaviour:
        """The same, once the gate is opened."""
        return replace(self, gate=gate)

    def with_headers(self, *pairs: tuple[str, str]) -> Behaviour:
        """The same with further headers."""
        return replace(self, headers=self.headers + pairs)


OK = Behaviour(name="ok", executed=True)


def ok() -> Behaviour:
    """The API's own answer. Executed."""
    return OK


def answer(
    status: int = 200, headers: HeaderPairs = (), body: bytes | None = None, *, executed: bool = True
) -> Behaviour:
    """Any status, headers and body; without a body, the API's own. Executed unless told otherwise."""
    return Behaviour(
        name=f"answer-{status}", executed=executed, status=status, headers=tuple(headers), body=body
    )


def error_body(message: str, *, kind: str, code: str | None, param: str | None = None) -> bytes:
    """The API's error object, all four fields of it."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def error(
    status: int,
    code: str | None,
    message: str = "The server was told to refuse this request.",
    *,
    kind: str = "invalid_request_error",
    headers: HeaderPairs = (),
    executed: bool = False,
) -> Behaviour:
    """An error object of the API's. Not executed unless told otherwise."""
    body = error_body(message, kind=kind, code=code)
    name = f"{status}-{code}" if code else str(status)
    return Behaviour(name=name, executed=executed, status=status, headers=(JSON_TYPE, *headers), body=body)


def rate_limited(retry_after: str = "1", *, message_wait: str = "1s") -> Behaviour:
    """429 for speed, with `Retry-After` as given. Not executed."""
    return error(
        429,
        "rate_limit_exceeded",
        f"Rate limit reached on requests per min (RPM). Please try again in {message_wait}.",
        kind="requests",
        headers=[("Retry-After", retry_after)],
    )


def rate_limited_until(ahead: float = 1.0, *, now: float | None = None) -> Behaviour:
    """429 whose `Retry-After` is an HTTP date, `ahead` seconds from now, rounded up. Not executed."""
    moment = math.ceil((time.time() if now is None else now) + ahead)
    limited = rate_limited(formatdate(moment, usegmt=True))
    return replace(limited, name="429-rate_limit_exceeded-date")


def overloaded(retry_after: str | None = None) -> Behaviour:
    """503 `server_is_overloaded`. Not executed."""
    headers = [] if retry_after is None else [("Retry-After", retry_after)]
    message = "Our servers are currently overloaded. Please try again later."
    return error(503, "server_is_overloaded", message, kind="service_unavailable_error", headers=headers)


def server_error(*, executed: bool = False) -> Behaviour:
    """500 with an error object. Not executed unless told otherwise."""
    message = "The server had an error while processing your request."
    return error(500, "server_error", message, kind="server_error", executed=executed)


def html(status: int = 503, *, executed: bool = False) -> Behaviour:
    """A gateway's page instead of an answer, with any status, 200 included. Not executed unless told."""
    page = HTML % status
    return Behaviour(name=f"{status}-html", executed=executed, status=status, headers=(HTML_TYPE,), body=page)


def error_in_200() -> Behaviour:
    """200 that holds an error object and no answer. Not executed."""
    return replace(server_error(), name="200-error", status=200)


def closed(*, executed: bool = False) -> Behaviour:
    """The connection ends without a byte of answer. Not executed unless told otherwise."""
    return Behaviour(name="closed", executed=executed, raw=b"", end=End.CLOSE)


def reset() -> Behaviour:
    """The connection is reset (RST) before the work. Not executed.

    At the door it comes before a byte is read, and the client may meet it in connect(), send or receive.
    """
    return Behaviour(name="reset", executed=False, raw=b"", end=End.RESET)


def lost() -> Behaviour:
    """The work is done, then the connection is reset (RST) without a byte of answer. Executed."""
    return Behaviour(name="lost", executed=True, raw=b"", end=End.RESET)


def late(seconds: float) -> Behaviour:
    """The connection is reset (RST) at once, and the work is done so many seconds later. Executed."""
    return Behaviour(name="late", executed=True, raw=b"", end=End.RESET, late=seconds)


def cut(keep: int, *, body: bytes | None = None, with_reset: bool = False) -> Behaviour:
    """The body ends after `keep` bytes (negative: that many are missing) of those announced. Executed.

    A reset may overtake bytes that the client has not read yet: use it where their number does not matter.
    """
    end = End.RESET if with_reset else End.CLOSE
    return Behaviour(name="cut", executed=True, body=body, cut=keep, end=end)


def cut_to_share(share: float) -> Behaviour:
    """The body ends after this share of the bytes announced. Executed."""
    return Behaviour(name="cut-share", executed=True, cut_share=share, end=End.CLOSE)


def cut_message(keep: int, *, body: bytes | None = None, with_reset: bool = False) -> Behaviour:
    """As `cut`, but counted from the first byte of the status line. Executed."""
    return replace(cut(keep, body=body, with_reset=with_reset), name="cut-message", cut_head=True)


def wrong_length(difference: int, *, body: bytes | None = None, end: End = End.CLOSE) -> Behaviour:
    """Content-Length lies by `difference` bytes; the body is whole. Executed."""
    return Behaviour(name="wrong-length", executed=True, body=body, length_error=difference, end=end)


def chunked(size: int = 16, *, cut_at: int | None = None, body: bytes | None = None) -> Behaviour:
    """The body in chunks of `size` bytes; cut after `cut_at` framed bytes (negative: missing). Executed."""
    end = End.KEEP if cut_at is None else End.CLOSE
    return Behaviour(name="chunked", executed=True, body=body, chunk=size, cut=cut_at, end=end)


def drip(size: int = 1, gap: float = 1.0, *, body: bytes | None = None) -> Behaviour:
    """The whole message, head included, `size` bytes at a time, `gap` seconds apart. Executed."""
    if size < 1:
        raise ValueError("a drip has at least one byte")
    return Behaviour(name="drip", executed=True, body=body, drip=(size, gap))


def silence(*, executed: bool = True, first: bytes = b"") -> Behaviour:
    """No answer, ever, after the bytes `first`; the connection stays open. Executed unless told otherwise."""
    return Behaviour(name="silence", executed=executed, raw=first, end=End.SILENCE)


def redirect(url: str, status: int = 302) -> Behaviour:
    """Sends the client elsewhere. Not executed."""
    headers = (("Location", url),)
    return Behaviour(name=f"{status}-redirect", executed=False, status=status, headers=headers, body=b"")


def gzip_garbage(*, executed: bool = True) -> Behaviour:
    """A body that claims to be gzip, begins like it, and is not. Executed unless told otherwise."""
    garbage = gzip.compress(b"{}", mtime=0)[:10] + b"\xff" * 40
    headers = (JSON_TYPE, ("Content-Encoding", "gzip"))
    return Behaviour(name="gzip-garbage", executed=executed, headers=headers, body=garbage)


def no_content(*, executed: bool = True) -> Behaviour:
    """204, no body. Executed unless told otherwise."""
    return Behaviour(name="204", executed=executed, status=204, body=b"")


def closing(*, announced: bool = False, idle: float = 0.0) -> Behaviour:
    """A whole answer, then the kept-alive connection closes, by default unannounced. Executed.

    What the client sends on it within the `idle` seconds before is never read.
    """
    headers = (("Connection", "close"),) if announced else ()
    return Behaviour(name="closing", executed=True, headers=headers, end=End.CLOSE, idle=idle)


def raw(message: bytes, *, executed: bool, end: End = End.CLOSE) -> Behaviour:
    """These bytes, whatever they are."""
    return Behaviour(name="raw", executed=executed, raw=message, end=end)


def flood(total: int) -> Behaviour:
    """The API's own answer followed by `total` blanks, all of it announced. Executed."""
    return Behaviour(name="flood", executed=True, filler=total, length_error=total)
