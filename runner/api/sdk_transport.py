"""The data plane for credentials that change: the SDK makes and signs each request, our own wire carries it.

It costs some twenty times as much as the lean transport alone, so it serves only where that cannot: where
each call needs its own signature, or a token that is fetched anew while a run goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Self

import httpx2
import openai

from runner.api.account import Account
from runner.api.client import signing
from runner.api.inflow import Inflow
from runner.api.request_head import head
from runner.api.sending import Landed, by_task
from runner.api.transport import Transport
from runner.api.wire import Wire
from runner.model import Reply

# What belongs to the connection, and is said there.
_FRAMING = frozenset({"accept-encoding", "connection", "content-length", "host", "transfer-encoding"})

# Calls that were given up end in a few turns of the loop.
_ENDING_SECONDS = 1.0


class _Call:
    """One call on its way through the SDK: since when, and what came of it on the wire."""

    __slots__ = ("patience", "reply", "since")

    def __init__(self, since: float, patience: asyncio.Timeout) -> None:
        self.since = since
        self.patience = patience
        self.reply: Reply | None = None


class SdkTransport:
    """As `Transport`, for an account whose credential is made for each call; use it as `async with`.

    Each send is one HTTP request here too: no retry of the SDK's, no second try after a 401, no redirect. A
    credential that cannot be had is a Reply that was not sent; a RunnerError from it ends the run.
    """

    def __init__(
        self,
        account: Account,
        *,
        concurrency: int,
        deadline: float = 600.0,
        connect_timeout: float = 10.0,
        max_body: int = 256 * 2**20,
        inflow: Inflow | None = None,
    ) -> None:
        self._account = account
        self._deadline = deadline
        self._wire = Wire(account.base_url, deployments=account.api_version is not None)
        self._below = Transport(
            self._wire,
            concurrency=concurrency,
            deadline=deadline,
            connect_timeout=connect_timeout,
            max_body=max_body,
            inflow=inflow,
        )
        self._current: ContextVar[_Call] = ContextVar("call")
        self._tasks: set[asyncio.Task[Reply]] = set()

    async def __aenter__(self) -> Self:
        await self._below.__aenter__()
        self._client = signing(self._account, _Carrier(self._account, self._below, self._current))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_ENDING_SECONDS)
        await self._client.close()
        await self._below.__aexit__(kind, error, trace)

    async def send(self, path: str, model: str | None, body: bytes) -> Reply:
        """POSTs a body to an endpoint's path and gives back what came; see `Transport.send`."""
        target = self._wire.path_for(path, model)
        return await self._carried(
            lambda: self._client.post(
                target, content=body, cast_to=httpx2.Response, options={"max_retries": 0}
            )
        )

    def start(self, path: str, model: str | None, body: bytes, landed: Landed) -> asyncio.Task[Reply]:
        """As `send`; see `Transport.start`. Here it is a task all the same."""
        task = by_task(self.send(path, model, body), landed)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def fetch(self, path: str) -> Reply:
        """GETs a path below the base URL; see `Transport.fetch`."""
        target = self._wire.path_for(path, None)
        return await self._carried(
            lambda: self._client.get(target, cast_to=httpx2.Response, options={"max_retries": 0})
        )

    async def _carried(self, ask: Callable[[], Awaitable[object]]) -> Reply:
        started = time.monotonic()
        reason = f"within {self._deadline:g} s"
        try:
            async with asyncio.timeout(self._deadline) as patience:
                call = _Call(started, patience)
                self._current.set(call)
                await ask()
        # What the SDK says of an answer is not heard: the wire has told what came.
        except (openai.OpenAIError, OSError, ValueError) as error:
            if not isinstance(error, TimeoutError):
                reason = f"({type(error).__name__})"
        if call.reply is not None:
            return call.reply
        detail = f"{self._account.address.origin}: there was no credential for the call {reason}"
        elapsed = time.monotonic() - started
        return Reply(None, fault="connect", detail=detail, sent=False, elapsed=elapsed)


class _Carrier(httpx2.AsyncBaseTransport):
    """Carries the SDK's requests over the lean transport, byte for byte, each call's first one only."""

    def __init__(self, account: Account, below: Transport, current: ContextVar[_Call]) -> None:
        self._address = account.address
        self._below = below
        self._current = current

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        call = self._current.get()
        if call.reply is not None:
            raise httpx2.ReadError("a call is one request", request=request)
        # From here on the lean transport keeps the deadline, and can say how much had come.
        call.patience.reschedule(None)
        headers = {
            name.decode("latin-1"): text.decode("latin-1")
            for name, text in request.headers.raw
            if name.lower().decode("latin-1") not in _FRAMING
        }
        headers["Accept-Encoding"] = "gzip, deflate"
        target = request.url.raw_path.decode("ascii")
        start = head(self._address, self._below.proxy, target, headers, method=request.method)
        call.reply = reply = await self._below.post(start, await request.aread(), since=call.since)
        if reply.status is None:
            raise httpx2.ReadError(reply.detail, request=request)
        return httpx2.Response(reply.status, content=b"", request=request)
