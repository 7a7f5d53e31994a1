"""HTTP/1.1 by hand: bytes of a connection to requests, behaviours to bytes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from http import HTTPStatus

from .behaviour import Behaviour

MAX_HEAD = 65_536
READ_SIZE = 262_144

HEX = re.compile(rb"[0-9a-fA-F]{1,15}")

REASONS: Mapping[int, bytes] = {status.value: status.phrase.encode() for status in HTTPStatus}


class Malformed(Exception):
    """The client sent something that is not HTTP/1.1."""


class Head:
    """The request line and the headers, names in lower case."""

    __slots__ = ("chunked", "headers", "keep_alive", "length", "method", "path", "query")

    def __init__(self, block: bytes) -> None:
        lines = block.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or words[2] not in {"HTTP/1.1", "HTTP/1.0"}:
            raise Malformed(f"request line {lines[0][:80]!r}")
        self.method = words[0]
        self.path, _, self.query = words[1].partition("?")
        self.headers = parse_headers(lines[1:])
        encoding = self.headers.get("transfer-encoding")
        length = self.headers.get("content-length")
        if encoding is not None and (length is not None or encoding.lower() != "chunked"):
            raise Malformed(f"transfer-encoding {encoding!r} with content-length {length!r}")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise Malformed(f"content-length {length!r}")
        if "host" not in self.headers and words[2] == "HTTP/1.1":
            raise Malformed("no host header")
        self.chunked = encoding is not None
        self.length = int(length or 0)
        wish = self.headers.get("connection", "").lower()
        self.keep_alive = wish != "close" if words[2] == "HTTP/1.1" else wish == "keep-alive"


def parse_headers(lines: list[str]) -> dict[str, str]:
    """Header lines to a mapping; equal names are joined by a comma."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name.strip() != name:
            raise Malformed(f"header line {line[:80]!r}")
        key = name.lower()
        value = value.strip(" \t")
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers


class RequestReader:
    """Reads one request after the other from a connection, across any fragmentation."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = b""
        self._last_block = b""
        self._last_head: Head | None = None

    async def next(self) -> tuple[Head, bytes] | None:
        """The next request with its body, or None where the client closed between two requests.

        Raises Malformed, and asyncio.IncompleteReadError where the client left in the middle of one.
        """
        end = self._buffer.find(b"\r\n\r\n")
        while end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise Malformed("the head is longer than 64 KiB")
            data = await self._reader.read(READ_SIZE)
            if not data:
                if not self._buffer:
                    return None
                raise asyncio.IncompleteReadError(self._buffer, None)
            self._buffer = self._buffer + data if self._buffer else data
            end = self._buffer.find(b"\r\n\r\n")
        head = self._head(self._buffer[:end])
        self._buffer = self._buffer[end + 4 :]
        if head.headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return head, await (self._chunks() if head.chunked else self._exactly(head.length))

    def _head(self, block: bytes) -> Head:
        # A client's calls differ in little but their bodies, so that most heads repeat the one before.
        if self._last_head is None or block != self._last_block:
            self._last_head = Head(block)
            self._last_block = block
        return self._last_head

    async def _exactly(self, size: int) -> bytes:
        missing = size - len(self._buffer)
        if missing > 0:
            body = self._buffer + await self._reader.readexactly(missing)
            self._buffer = b""
            return body
        body = self._buffer[:size]
        self._buffer = self._buffer[size:]
        return body

    async def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > MAX_HEAD:
                raise Malformed("a chunk's line is longer than 64 KiB")
            data = await self._reader.read(READ_SIZE)
            if not data:
                raise asyncio.IncompleteReadError(self._buffer, None)
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    async def _chunks(self) -> bytes:
        pieces = []
        while True:
            line = (await self._line()).partition(b";")[0].strip()
            if not HEX.fullmatch(line):
                raise Malformed(f"chunk size {line[:40]!r}")
            size = int(line, 16)
            if size == 0:
                break
            pieces.append(await self._exactly(size))
            if await self._line():
                raise Malformed("a chunk is longer than its size")
        while await self._line():
            pass
        return b"".join(pieces)


def compose(
    behaviour: Behaviour, status: int, own: bytes, stamp: bytes, *, kind: str = "application/json"
) -> bytes:
    """The bytes that the behaviour sends, `own` being the body unless it brings another.

    `stamp` is the block of header lines common to all answers, each with its line end. `kind` is the content
    type, unless the behaviour names one.
    """
    if behaviour.raw is not None:
        return behaviour.raw
    body = own if behaviour.body is None else behaviour.body
    lines = b"HTTP/1.1 %d %b\r\n%b" % (status, REASONS.get(status, b"Unknown"), stamp)
    typed = False
    for name, value in behaviour.headers:
        typed = typed or name.lower() == "content-type"
        lines += f"{name}: {value}\r\n".encode("latin-1")
    if status == 204:
        return lines + b"\r\n"
    if not typed:
        lines += b"Content-Type: %b\r\n" % kind.encode()
    if behaviour.chunk:
        lines += b"Transfer-Encoding: chunked\r\n\r\n"
        body = in_chunks(body, behaviour.chunk)
    else:
        lines += b"Content-Length: %d\r\n\r\n" % max(0, len(body) + behaviour.length_error)
    if behaviour.cut_share is not None:
        return lines + body[: int(len(body) * behaviour.cut_share)]
    if behaviour.cut is None:
        return lines + body
    return (lines + body)[: behaviour.cut] if behaviour.cut_head else lines + body[: behaviour.cut]


def in_chunks(body: bytes, size: int) -> bytes:
    """The body in HTTP/1.1 chunks of that many bytes, closed by the empty one."""
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
