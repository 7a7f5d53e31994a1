"""HTTP: the port, the model calls, and how their answers go out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from runner.simulator import wire
from runner.simulator.batch import ENDPOINTS
from runner.simulator.calls import Calls
from runner.simulator.control import STANDING_HEADERS, Control, key_of
from runner.simulator.ledger import Ledger
from runner.simulator.settings import Settings

MAX_BODY = 64 * 1024 * 1024


class Server:
    """The simulator on the running event loop. `clock` is in seconds, `wall` the time of day since 1970."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._calls = Calls(settings, clock=clock, wall=wall)
        self._control = Control(self._calls, clock=clock, wall=wall)
        self._web: web.Server | None = None
        self._listener: asyncio.Server | None = None

    @property
    def ledger(self) -> Ledger:
        """The book of all calls."""
        return self._calls.ledger

    async def listen(self) -> int:
        """Opens the port and says which one it is."""
        self._web = web.Server(
            self._handle,
            request_factory=_request,
            handler_cancellation=True,
            access_log=None,
        )
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            self._web, self.settings.host, self.settings.port, backlog=2048
        )
        return int(self._listener.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Closes the port and all connections, ends the batches, deletes the files."""
        if self._listener is not None:
            self._listener.close()
        await self._control.stop()
        if self._web is not None:
            await self._web.shutdown(0.1)
        if self._listener is not None:
            await self._listener.wait_closed()
        self._control.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        endpoint = ENDPOINTS.get(self._control.profile.path(request.path))
        if endpoint is not None and request.method == "POST":
            return await self._call(request, endpoint)
        return await self._control.handle(request)

    async def _call(self, request: web.BaseRequest, endpoint: str) -> web.StreamResponse:
        result = self._calls.online(endpoint, await request.read(), key=key_of(request))
        if self.settings.latency:
            await asyncio.sleep(self.settings.latency)
        headers = {**STANDING_HEADERS, **result.headers}
        headers["x-request-id"] = result.request_id
        headers["openai-processing-ms"] = str(int(self.settings.latency * 1000) + 1)
        result.headers = headers
        if result.fault is not None:
            return await wire.send(request, result)
        return web.Response(body=result.body, status=result.status, headers=headers)


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    """A request as aiohttp makes it, but of the size that large embeddings calls need."""
    return web.BaseRequest(
        message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=MAX_BODY
    )
