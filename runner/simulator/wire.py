"""Faults of the wire: answers that break, stall, or are no answers of this API at all."""

from __future__ import annotations

import asyncio
import socket
import struct

from aiohttp import web

from runner.simulator import failures
from runner.simulator.calls import Result

_SLOW = 30.0


async def send(request: web.BaseRequest, result: Result) -> web.StreamResponse:
    """Sends the result of a call in the way of its fault."""
    assert result.fault is not None
    name, half = result.fault.name, result.body[: len(result.body) // 2]
    if name in ("reset", "lost"):
        return _reset(request)
    if name == "truncated":
        return _raw(request, result, f"content-length: {len(result.body)}", half)
    if name == "chunk-cut":
        # The chunk says that it is as long as the whole body.
        return _raw(request, result, "transfer-encoding: chunked", b"%x\r\n" % len(result.body) + half)
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


def _reset(request: web.BaseRequest) -> web.StreamResponse:
    transport = request.transport
    if transport is not None:
        # Lingering for no time makes closing send a reset instead of an orderly end.
        peer = transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return _Sent()


def _raw(request: web.BaseRequest, result: Result, framing: str, body: bytes) -> web.StreamResponse:
    """Writes a head and a part of a body; the connection closes after it, since `_Sent` keeps none alive."""
    transport = request.transport
    if transport is not None:
        head = "".join(f"{name}: {value}\r\n" for name, value in result.headers.items())
        transport.write(f"HTTP/1.1 200 OK\r\n{head}{framing}\r\n\r\n".encode() + body)
    return _Sent()
