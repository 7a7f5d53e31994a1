"""The connections between two calls: kept for a while, the latest used first, so that the rest can go."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from runner.api.connection import Connection

# uvicorn and Node close an idle connection after 5 s; whoever writes into that moment has an ambiguous call.
_IDLE_SECONDS = 4.0
# A TLS connection closes in a few turns of the loop, unless something is very wrong.
_CLOSING_SECONDS = 1.0


class Pool:
    """The open connections of a transport, and those of them that are idle; `clock` is a monotonic one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.live: set[Connection] = set()
        self._idle: deque[Connection] = deque()
        self._returned: list[tuple[Connection, float]] = []
        self._loop = asyncio.get_running_loop()
        self._sweeping: asyncio.TimerHandle | None = None

    def take(self, now: float) -> Connection | None:
        """The connection that was used last, if one is idle and still good; `now` is the clock's."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                if now - connection.idle_since < _IDLE_SECONDS:
                    return connection
                connection.close()
        return None

    def put(self, connection: Connection, now: float) -> None:
        """Keeps a connection for the next call, or closes it if it is no longer good."""
        if not connection.usable:
            connection.abort()
            return
        connection.idle_since = now
        self._idle.append(connection)
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(_IDLE_SECONDS, self._sweep)

    def put_soon(self, connection: Connection, now: float) -> None:
        """As `put`, one turn of the loop later: many a server closes right after its answer without saying so."""
        if not self._returned:
            self._loop.call_soon(self._put_returned)
        self._returned.append((connection, now))

    def _put_returned(self) -> None:
        returned, self._returned = self._returned, []
        for connection, now in returned:
            self.put(connection, now)

    def _sweep(self) -> None:
        self._sweeping = None
        idle, now = self._idle, self._clock()
        while idle and (not idle[0].usable or now - idle[0].idle_since >= _IDLE_SECONDS):
            idle.popleft().close()
        if idle:
            left = idle[0].idle_since + _IDLE_SECONDS - now
            self._sweeping = self._loop.call_later(max(0.001, left), self._sweep)

    async def close(self) -> None:
        """Closes all connections at once, and waits until their sockets are closed."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._idle.clear()
        ends = [connection.ended() for connection in self.live]
        for connection in list(self.live):
            connection.abort()
        if ends:
            await asyncio.wait(ends, timeout=_CLOSING_SECONDS)
