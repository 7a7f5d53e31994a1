"""Faults of the wire: answers that break, stall, or are no answers of this API at all."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping

from aiohttp import web

from runner.simulator import failures
from runner.simulator.calls import Result

_SLOW = 30.0


async def send(request: web.BaseRequest, result: Result) -> web.StreamResponse:
    """Sends the result of a call in the way of its fault."""
    assert result.fault is not None
    name, half = result.fault.name, result.body[: len(result.body) // 2]
    if name in ("reset", "lost"):
        return reset(request)
    if name == "truncated":
        framing = f"content-length: {len(result.body)}"
        return cut(request, result.headers, framing=framing, part=half)
    if name == "chunk-cut":
        # The chunk says that it is as long as the whole body.
        part = b"%x\r\n" % len(result.body) + half
        return cut(request, result.headers, framing="transfer-encoding: chunked", part=part)
    if name == "hang":
        await asyncio.Event().wait()
    if name == "slow":
        await asyncio.sleep(_SLOW)
        return web.Response(body=result.body, headers=result.headers)
    return _odd(name, result)


class _Sent(web.StreamResponse):
    """An answer of which nothing more is to be sent: its bytes have gone out past aiohttp, or none shall."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Sends nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Sends nothing."""


def _odd(name: str, result: Result) -> web.StreamResponse:
    """Answers that are proper HTTP, though not of this API."""
    headers = result.headers
    if name == "redirect":
        return web.Response(status=302, headers={"location": "/sim/loop"})
    if name == "204":
        headers.pop("content-type")
        return web.Response(status=204, headers=headers)
    if name == "empty":
        return web.Response(body=b"", headers=headers)
    if name == "wrong-type":
        return web.Response(body=result.body, headers={**headers, "content-type": "text/html"})
    if name == "gzip-garbage":
        return web.Response(body=result.body[::-1], headers={**headers, "content-encoding": "gzip"})
    status, page = failures.page(name)
    return web.Response(body=page, status=status, headers={"content-type": "text/html; charset=utf-8"})


def reset(request: web.BaseRequest) -> web.StreamResponse:
    """Resets the connection: nothing is answered."""
    transport = request.transport
    if transport is not None:
        # Lingering for no time makes closing send a reset instead of an orderly end.
        peer = transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return _Sent()


def cut(
    request: web.BaseRequest, headers: Mapping[str, str], *, framing: str, part: bytes
) -> web.StreamResponse:
    """Writes a head, framed as the caller says, and a part of a body; the connection closes after it, since
    `_Sent` keeps none alive."""
    transport = request.transport
    if transport is not None:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        transport.write(f"HTTP/1.1 200 OK\r\n{head}{framing}\r\n\r\n".encode() + part)
    return _Sent()


async def stall(request: web.BaseRequest, headers: Mapping[str, str], *, length: int, part: bytes) -> None:
    """Writes a head that promises so many bytes and a part of them, and then nothing more, until the client
    goes."""
    cut(request, headers, framing=f"content-length: {length}", part=part)
    await asyncio.Event().wait()
