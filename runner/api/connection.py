"""One connection to a server: a request goes out, an answer comes back, one after the other (HTTP/1.1).

What happened on the wire is told without guessing: whether a byte may have left, and whether the answer came
whole. Anything that arrives unasked spoils the connection, so that no answer can become another request's.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol, cast

import httptools

from runner.api.inflow import Inflow

_HEAD_BYTES = 64 * 2**10
# RFC 9113, 6.5.2 reckons so what a header costs beside its letters; it bounds many short ones as well.
_HEADER_COST = 32
# Larger bodies go out in parts as the server takes them, or a slow one would leave a second copy in memory.
_PART = 256 * 2**10
_KNOWN_NAMES = 1024


class Ending(NamedTuple):
    """Why an answer did not come whole: the `fault` of a Reply, and what the wire knows of the reason."""

    fault: str
    reason: str


class Waiter(Protocol):
    """Who waits for an answer."""

    def end(self, ending: Ending | None) -> None:
        """The answer is over: whole where `ending` is None, else as it says. Only the first end counts."""


class Connection(asyncio.Protocol):
    """One connection, carrying one request at a time.

    Once the waiter of `ask` was told the end, `take` gives what came, and `reusable` says whether the next
    request may use the connection. `limit` is the most bytes of a body, `names` a cache of header names that
    connections share, `live` the connections that are open, `inflow` what bounds the bytes that all of them read.
    """

    __slots__ = (
        "_chunks",
        "_ended",
        "_ending",
        "_headers",
        "_inflow",
        "_informational",
        "_limit",
        "_live",
        "_names",
        "_over",
        "_parser",
        "_paused",
        "_raw",
        "_rest",
        "_room",
        "_size",
        "_status",
        "_transport",
        "_until_end",
        "_waiter",
        "idle_since",
        "reusable",
    )

    def __init__(
        self, limit: int, names: dict[bytes, str], live: set[Connection], inflow: Inflow | None = None
    ) -> None:
        self._limit = limit
        self._names = names
        self._live = live
        self._inflow = inflow or Inflow()
        self._size = 0
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: Waiter | None = None
        self._over: Waiter | None = None
        self._ending: Ending | None = None
        self._ended: asyncio.Future[None] | None = None
        self._rest: memoryview | None = None
        self._paused = False
        self._forget()
        self.reusable = True
        self.idle_since = 0.0

    def _forget(self) -> None:
        self._status: int | None = None
        self._headers: dict[str, str] = {}
        self._chunks: list[bytes] = []
        if self._size:
            size, self._size = self._size, 0
            self._inflow.went(self, size)
        self._room = self._raw = _HEAD_BYTES
        self._informational = False
        self._until_end = False

    @property
    def usable(self) -> bool:
        """Whether a request may be sent on it now."""
        return self.reusable and self._transport is not None and not self._transport.is_closing()

    def ask(self, waiter: Waiter, head: bytes, body: bytes) -> None:
        """Sends a request; the waiter is told once the answer is whole, or how it ended.

        `head` lacks the value of its last header, Content-Length. Raises ConnectionResetError, and sends
        nothing, where the connection has ended or something unasked came over it.
        """
        transport = self._transport
        if transport is None or not self.reusable or transport.is_closing():
            self.abort()
            raise ConnectionResetError("the connection had ended or gone out of step, and nothing was sent")
        self._waiter = waiter
        size = len(body)
        if size <= _PART:
            transport.write(b"%b%d\r\n\r\n%b" % (head, size, body))
            return
        transport.write(b"%b%d\r\n\r\n" % (head, size))
        self._rest = memoryview(body)
        self._pour()

    def take(self) -> tuple[int | None, dict[str, str], bytes]:
        """Status, headers and body as far as they came; the connection keeps none of it."""
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        taken = (self._status, self._headers, body)
        self._forget()
        return taken

    def close(self) -> None:
        """Closes it as the protocols below want it; only for one that is idle."""
        self.reusable = False
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Closes it at once."""
        self.reusable = False
        self._rest = None
        if self._transport is not None:
            self._transport.abort()

    def ended(self) -> asyncio.Future[None]:
        """A future that is done when the connection's socket is closed."""
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
        return self._ended

    def _pour(self) -> None:
        assert self._transport is not None
        while self._rest is not None and not self._paused:
            part, rest = self._rest[:_PART], self._rest[_PART:]
            self._rest = rest if len(rest) else None
            self._transport.write(part)

    def _end(self, ending: Ending | None) -> None:
        if ending is not None:
            self.reusable = False
        if self._waiter is not None:
            self._over, self._ending, self._waiter = self._waiter, ending, None

    def _tell(self) -> None:
        """Tell the waiter of an answer that is over, when all that has arrived is read: what came unasked after
        it has spoilt the connection by then."""
        over, self._over = self._over, None
        if over is not None:
            over.end(self._ending)

    # What the inflow tells.

    def pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._live.add(self)
        self._parser = parser = httptools.HttpResponseParser(self)
        # What servers in the field send though they should not: bare line feeds, padded chunk sizes.
        parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pour()

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._parser is None:
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._end(Ending("protocol", str(error)))
            self.reusable = False
        if self._status is None and self._waiter is not None:
            self._raw -= len(data)
            if self._raw < 0:
                self._end(Ending("protocol", "a head without end"))
        if self._over is not None:
            self._tell()

    def eof_received(self) -> None:
        self._lose(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._live.discard(self)
        self._parser = None
        self._lose(exc)
        self._forget()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _lose(self, error: Exception | None) -> None:
        self.reusable = False
        self._rest = None
        if self._until_end and error is None:
            self._end(None)
        else:
            reason = "end of stream" if error is None else type(error).__name__
            self._end(Ending("reset" if self._status is None else "cut", reason))
        self._tell()

    # What the parser tells.

    def on_message_begin(self) -> None:
        if self._waiter is None:
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._status is not None or self._waiter is None:
            return  # A trailer after the body, or nobody asked.
        self._room -= len(name) + len(value) + _HEADER_COST
        if self._room < 0:
            self._end(Ending("protocol", f"a head of more than {_HEAD_BYTES} bytes"))
            return
        known = self._names.get(name)
        if known is None:
            known = name.decode("latin-1").lower()
            if len(self._names) < _KNOWN_NAMES:
                self._names[name] = known
        self._headers[known] = value.decode("latin-1").strip(" \t")

    def on_headers_complete(self) -> None:
        if self._waiter is None or self._parser is None:
            return
        status = self._parser.get_status_code()
        if status == 101:
            self._end(Ending("protocol", "101 Switching Protocols"))
            return
        if status < 200:
            self._forget()
            self._informational = True
            return
        self._status = status
        headers = self._headers
        headers.pop("set-cookie", None)
        length = headers.get("content-length")
        coding = headers.get("transfer-encoding")
        if coding is not None and coding.lower() != "chunked":
            self._end(Ending("protocol", "a transfer coding that was not asked for"))
        elif length is not None and int(length) > self._limit and status not in (204, 304):
            self._too_large()
        else:
            self._until_end = length is None and coding is None and status not in (204, 304)

    def on_body(self, body: bytes) -> None:
        if self._waiter is None or self._informational:
            return
        size = len(body)
        self._size += size
        self._chunks.append(body)
        self._inflow.came(self, size)
        if self._size > self._limit:
            self._too_large()

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            return
        if self._waiter is None or self._parser is None or self._transport is None:
            return
        unsent = self._rest is not None or self._transport.get_write_buffer_size()
        self.reusable = self.reusable and self._parser.should_keep_alive() and not unsent
        self._end(None)

    def _too_large(self) -> None:
        self._chunks.clear()
        self._end(Ending("too_large", ""))
