"""The server: connections in, scripted behaviours out, everything in the ledger."""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
import time
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from functools import partial
from typing import Any

from .answers import own_answer
from .batches import DEFAULT_TIME
from .batchfaults import BatchFaults
from .behaviour import OK, Behaviour, End, answer, error_body
from .desk import Desk
from .ledger import Arrival, Ledger
from .own import Own
from .scripts import Script
from .wire import Head, Malformed, RequestReader, compose

Door = Callable[[int], Behaviour | None]

NOTHING = Own(200, b"", charged=False, usage={})
BAD = "invalid_request_error"
LINGER_ZERO = struct.pack("ii", 1, 0)
FILLER = b" " * 65_536


class Service:
    """The server on a running loop. `FaultServer` (threaded.py) gives it a thread, `python -m faultserver` a process.

    `script` decides each request's fate and may be exchanged at any time. `door`, if given, is asked for
    each connection by its number, from 1, before a byte is read: a behaviour is done at once, None lets the
    connection in. `latency`, in seconds, is added to every request's own. `batches` is what goes wrong with
    files and batches where the script says ok, `batch_time` the seconds that a batch takes.
    """

    def __init__(
        self,
        script: Script,
        ledger: Ledger,
        *,
        latency: float = 0.0,
        door: Door | None = None,
        batches: BatchFaults | None = None,
        batch_time: float = DEFAULT_TIME,
    ) -> None:
        self.script = script
        self.ledger = ledger
        self.latency = latency
        self.door = door
        self.failures: list[BaseException] = []
        self.port = 0
        self._ident = secrets.token_hex(6)
        self._connections: set[asyncio.Task[None]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._desk = Desk(
            BatchFaults() if batches is None else batches,
            ledger,
            self._ident,
            seconds=batch_time,
            spawn=self._spawn,
        )
        self._connection_count = 0
        self._server: asyncio.Server | None = None
        self._date = (0, b"")

    async def start(self, port: int = 0) -> None:
        """Listen on loopback, at that port or a free one."""
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", port, limit=1 << 20, backlog=4_096
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End every connection and every batch at once, whatever it is waiting for."""
        assert self._server is not None
        self._server.close()
        tasks = [*self._connections, *self._background]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connection_count += 1
        task = asyncio.create_task(self._connection(reader, writer, self._connection_count))
        self._connections.add(task)
        task.add_done_callback(partial(self._ended, writer))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that outlives the request that it comes from."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background_ended)

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        self._failed(task)

    def _ended(self, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        if task.cancelled():
            # A task that is cancelled before its first step runs none of its own clean-up.
            writer.transport.abort()
        self._failed(task)

    def _failed(self, task: asyncio.Task[None]) -> None:
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self.failures.append(failure)

    async def _connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        requests = RequestReader(reader, writer)
        clean = False
        try:
            fate = None if self.door is None else self.door(number)
            if fate is not None:
                await self._send(reader, writer, fate, compose(fate, fate.status, b"", self._stamp(0)))
            else:
                while (request := await requests.next()) and await self._exchange(*request, reader, writer):
                    pass
            clean = True
        except asyncio.IncompleteReadError:
            self.ledger.breaks()
        except Malformed as malformed:
            self.ledger.breaks()
            message = f"Not HTTP/1.1: {malformed}"
            refusal = answer(400, [("Connection", "close")], error_body(message, kind=BAD, code=None))
            writer.write(compose(refusal, 400, b"", self._stamp(0)))
            clean = True
        except ConnectionError:
            pass
        finally:
            if clean:
                writer.close()
            else:
                writer.transport.abort()

    async def _exchange(
        self, head: Head, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; whether the connection takes another."""
        arrival = self.ledger.arrive(head.method, head.path, head.headers, body, query=head.query)
        name, status, whole = "script-failed", None, False
        try:
            fate = self.script(arrival)
            if fate.name == OK.name and arrival.operation is not None:
                fate = self._desk.fate(arrival)
            name = fate.name
            if fate.late is None:
                own = self._execute(arrival, fate)
            else:
                own = NOTHING
                self._spawn(self._execute_later(arrival, fate, fate.late))
            status = own.status if fate.body is None and own.status != 200 else fate.status
            message = compose(fate, status, own.body, self._stamp(arrival.n), kind=own.kind)
            latency = self.latency + fate.latency
            if latency > 0:
                await asyncio.sleep(latency)
            if fate.gate is not None:
                await fate.gate.passed()
            whole = await self._send(reader, writer, fate, message)
        finally:
            self.ledger.answer(arrival, name, status, whole=whole)
        if fate.idle > 0:
            await asyncio.sleep(fate.idle)
        return fate.end is End.KEEP and head.keep_alive

    def _execute(self, arrival: Arrival, fate: Behaviour) -> Own:
        if not fate.executed:
            own = NOTHING
        elif arrival.operation is not None:
            own = self._desk.answer(arrival)
        else:
            own = own_answer(arrival, self._ident)
        if own.charged:
            self.ledger.execute(arrival, own.usage)
        elif arrival.paid:
            self.ledger.refuse(arrival)
        return own

    async def _execute_later(self, arrival: Arrival, fate: Behaviour, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._execute(arrival, fate)

    def _stamp(self, number: int) -> bytes:
        """The header lines that every answer bears."""
        now = int(time.time())
        if now != self._date[0]:
            date = formatdate(now, usegmt=True).encode()
            self._date = (
                now,
                b"Date: %b\r\nopenai-version: 2020-10-01\r\nopenai-processing-ms: 1\r\n" % date,
            )
        return b"%bx-request-id: req_%b%08x\r\n" % (self._date[1], self._ident.encode(), number)

    async def _send(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fate: Behaviour, message: bytes
    ) -> bool:
        """Send, and end as the behaviour ends; whether all its bytes found a connection to go to."""
        if fate.drip is None:
            writer.write(message)
        else:
            size, gap = fate.drip
            for start in range(0, len(message), size):
                writer.write(message[start : start + size])
                await writer.drain()
                await asyncio.sleep(gap)
        left = fate.filler
        while left > 0:
            writer.write(FILLER[:left])
            left -= len(FILLER)
            await writer.drain()
        await writer.drain()
        whole = not writer.is_closing()
        if fate.end is End.SILENCE:
            while await reader.read(65_536):
                pass
        elif fate.end is End.RESET:
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
            writer.transport.abort()
        return whole
