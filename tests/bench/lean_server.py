"""A server that costs next to nothing: every answer is built beforehand, and nothing is looked at but the count.

    python tests/bench/lean_server.py chat
    python tests/bench/lean_server.py flight SECONDS CALLS told|silent
    python tests/bench/lean_server.py vectors DIMENSIONS

`chat` answers each chat call at once, and tells of no limit. `flight` answers each chat call so many seconds after it
has arrived, and tells how it went once it held so many calls; `vectors` answers packs of embeddings at once, in base64.
Prints its address first. GET /figures tells what it has seen.
"""

from __future__ import annotations

import asyncio
import base64
import math
import random
import resource
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import httptools
import orjson
import uvloop

FIGURES = "/figures"
LIMITS = b"".join(
    b"x-ratelimit-limit-%b: 600000000\r\nx-ratelimit-remaining-%b: 599999999\r\nx-ratelimit-reset-%b: 1ms\r\n"
    % (name, name, name)
    for name in (b"requests", b"tokens")
)
DIFFERENT = 64
"""So many vectors take turns."""

BACKLOG = 8_192

Answer = Callable[["Peer", bytes], None]


class Peer(asyncio.Protocol):
    """One connection. `answer` is told each body as it has arrived."""

    def __init__(self, answer: Answer, figures: Callable[[], dict[str, Any]]) -> None:
        self._answer = answer
        self._figures = figures
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url
        self._body = []

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._url == FIGURES.encode():
            self.write(whole(orjson.dumps(self._figures())))
        elif self._parser.get_method() == b"POST":
            self._answer(self, b"".join(self._body))
        else:
            self.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    def write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


class Chat:
    """Answers each call at once."""

    def __init__(self) -> None:
        self._answer = whole(_chat())
        self._arrived = 0

    def answer(self, peer: Peer, _: bytes) -> None:
        self._arrived += 1
        peer.write(self._answer)

    def figures(self) -> dict[str, Any]:
        return {"arrived": self._arrived}


class Flight:
    """Holds each call for some seconds; it is full when it holds nearly `full` of them."""

    def __init__(self, seconds: float, *, told: bool, full: int) -> None:
        self._seconds = seconds
        self._enough = math.ceil(0.99 * full)
        self._answer = whole(_chat(), LIMITS if told else b"")
        self._held = self._most = self._arrived = 0
        self._first = self._last = 0.0
        self._full: tuple[float, int] | None = None

    def answer(self, peer: Peer, _: bytes) -> None:
        self._last = time.monotonic()
        self._first = self._first or self._last
        self._arrived += 1
        self._held += 1
        self._most = max(self._most, self._held)
        if self._full is None and self._held >= self._enough:
            self._full = self._last, self._arrived
        asyncio.get_running_loop().call_later(self._seconds, self._end, peer)

    def _end(self, peer: Peer) -> None:
        self._held -= 1
        peer.write(self._answer)

    def figures(self) -> dict[str, Any]:
        """`steady` are the calls that came after it was full, and the seconds until the last of them did."""
        at, before = self._full or (self._last, self._arrived)
        return {
            "arrived": self._arrived,
            "most": self._most,
            "is_full": self._full is not None,
            "full_after": at - self._first,
            "steady": [self._arrived - before, self._last - at],
        }


class Vectors:
    """Answers packs of any size with vectors that are made beforehand."""

    def __init__(self, dimensions: int) -> None:
        chance = random.Random(5)
        floats = [struct.pack(f"<{dimensions}f", *_unit(chance, dimensions)) for _ in range(DIFFERENT)]
        self._texts = [base64.b64encode(one) for one in floats]
        self._answers: dict[int, bytes] = {}
        self._sizes: list[int] = []
        self._first = self._last = 0.0

    def answer(self, peer: Peer, body: bytes) -> None:
        self._first = self._first or time.monotonic()
        given = orjson.loads(body)["input"]
        count = len(given) if isinstance(given, list) else 1
        if count not in self._answers:
            self._answers[count] = whole(self._made(count), LIMITS)
        self._sizes.append(count)
        peer.write(self._answers[count])
        self._last = time.monotonic()

    def _made(self, count: int) -> bytes:
        items = b",".join(
            b'{"object":"embedding","index":%d,"embedding":"%b"}' % (n, self._texts[n % DIFFERENT])
            for n in range(count)
        )
        return (
            b'{"object":"list","data":[%b],"model":"text-embedding-3-small",'
            b'"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (items, 12 * count, 12 * count)
        )

    def figures(self) -> dict[str, Any]:
        return {"sizes": self._sizes, "seconds": self._last - self._first}


def whole(body: bytes, headers: bytes = b"") -> bytes:
    """An answer as it goes over the wire."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_lean\r\n%bcontent-length: %d\r\n\r\n"
    return head % (headers, len(body)) + body


def _chat() -> bytes:
    message = {"role": "assistant", "content": "Three sentences would be too many.", "refusal": None}
    return orjson.dumps(
        {
            "id": "chatcmpl-lean",
            "object": "chat.completion",
            "created": 1_790_000_000,
            "model": "gpt-6-luna",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
            "usage": {"prompt_tokens": 30, "completion_tokens": 8, "total_tokens": 38},
        }
    )


def _unit(chance: random.Random, dimensions: int) -> list[float]:
    values = [chance.gauss(0, 1) for _ in range(dimensions)]
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]


async def serve(kind: Chat | Flight | Vectors) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Peer(kind.answer, kind.figures), "127.0.0.1", 0, backlog=BACKLOG
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await asyncio.sleep(math.inf)


def main(arguments: list[str]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kind: Chat | Flight | Vectors
    if arguments[0] == "chat":
        kind = Chat()
    elif arguments[0] == "flight":
        seconds, full, speaks = arguments[1:]
        kind = Flight(float(seconds), told=speaks == "told", full=int(full))
    else:
        kind = Vectors(int(arguments[1]))
    uvloop.run(serve(kind))


if __name__ == "__main__":
    main(sys.argv[1:])
