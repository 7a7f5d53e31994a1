"""A server that does to each request what a test says, and the two transports that ask it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from runner.api.account import Account
from runner.api.sdk_transport import SdkTransport
from runner.api.transport import Transport
from runner.api.wire import Wire
from runner.model import Reply

PATH = "/chat/completions"
ASKED = b'{"model":"m"}'
BODY = b'{"id":"chatcmpl-1","choices":[{"message":{"content":"' + b"yes " * 60 + b'"}}]}'
KEY = "sk-canary-9f31c4"

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[bool | None]]
Plane = Callable[..., Transport | SdkTransport]


def lean(
    url: str, headers: Mapping[str, str] | None = None, *, concurrency: int = 1, **options: float
) -> Transport:
    """The transport for credentials that last."""
    return Transport(Wire(url, headers or {}), concurrency=concurrency, **options)


def sdk(
    url: str, headers: Mapping[str, str] | None = None, *, concurrency: int = 1, **options: float
) -> SdkTransport:
    """The transport for credentials that are made for each call."""

    async def credential() -> str:
        return KEY

    account = Account("openai", url, headers=headers or {}, credential=credential)
    return SdkTransport(account, concurrency=concurrency, **options)


def whole(body: bytes = BODY, *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def chunked(*parts: bytes, last: bool = True, headers: str = "") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{headers}\r\n".encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + (b"0\r\n\r\n" if last else b"")


def reset(writer: asyncio.StreamWriter) -> None:
    """Closes a connection by RST instead of FIN."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def listening(
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """A server whose connections end with the test; gives its port."""
    open_now: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        try:
            await connected(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            open_now.discard(task)
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0, ssl=tls, backlog=256)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        left = list(open_now)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that reads whole requests and leaves the rest to `answer`; True keeps the connection."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            if not await answer(reader, writer, head + await reader.readexactly(length)):
                return

    async with listening(connected, tls) as port:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1"


def saying(*answers: bytes, keep: bool = False) -> Answer:
    """Gives the answers in turn, one a request, and closes after each unless told to keep."""
    left = list(answers)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> bool:
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()
        return keep

    return answer


async def ask(plane: Plane, answer: Answer, **options: float) -> Reply:
    async with serving(answer) as url, plane(url, **options) as transport:
        return await transport.send(PATH, "m", ASKED)


async def ask_all(plane: Plane, answer: Answer, count: int) -> list[Reply]:
    """Asks one after the other, over one connection while it lasts."""
    async with serving(answer) as url, plane(url) as transport:
        return [await transport.send(PATH, "m", ASKED) for _ in range(count)]


async def turn() -> None:
    """Lets the loop hear what has reached this machine's sockets."""
    await asyncio.get_running_loop().run_in_executor(None, lambda: None)
