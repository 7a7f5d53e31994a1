"""The data plane: bytes out, one Reply back, each send exactly one HTTP request and never a retry.

What a Reply means is not decided here; only what happened on the wire is told, without guessing: whether any
byte of the request may have left (`sent`), and whether the answer came whole.
"""

from __future__ import annotations

import asyncio
import errno
import time
from functools import lru_cache, partial
from types import TracebackType
from typing import Self

from runner.api.connection import Connection, Ending
from runner.api.deadlines import Deadlines
from runner.api.descriptors import affordable, allow_connections
from runner.api.dialing import Dialer
from runner.api.inflate import BrokenBodyError, inflated
from runner.api.inflow import Inflow
from runner.api.origin import parse
from runner.api.pool import Pool
from runner.api.proxy import ProxyRefusedError, proxy_at
from runner.api.request_head import head_for
from runner.api.route import proxy_for
from runner.api.sending import Landed, Sending
from runner.api.wire import Wire
from runner.model import Reply

__all__ = ["Transport", "affordable"]

# Thousands of handshakes at once would all be late; so many at once are done in a second.
_DIALS = 512
_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE})
_FILES_SECONDS = 0.05


class Transport:
    """Sends calls to one account, as many at once as it is asked to; use it as `async with Transport(...)`.

    `deadline` bounds a call from send to last byte, `connect_timeout` its way to a connection (name, TCP,
    proxy, TLS), both in seconds; `max_body` the bytes of an answer, packed or unpacked, `inflow` those of all
    answers that are being read. `concurrency` is the most calls that will be in flight; no call waits here for
    another, except for its turn to make a connection, where hundreds are being made, or for an open file, where the
    system has none left.
    Raises BadConfiguration where the system does not allow so many connections.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        concurrency: int,
        deadline: float = 600.0,
        connect_timeout: float = 10.0,
        max_body: int = 256 * 2**20,
        inflow: Inflow | None = None,
    ) -> None:
        proxy = proxy_for(wire.base_url)
        self._concurrency = concurrency
        self._deadline = deadline
        self._connect_timeout = connect_timeout
        self._max_body = max_body
        self._address = parse(wire.base_url)
        self._host = self._address.origin
        self.proxy = None if proxy is None else proxy_at(proxy)
        self._head = lru_cache(maxsize=1024)(partial(head_for, wire, self.proxy))
        self._names: dict[bytes, str] = {}
        self._inflow = inflow or Inflow()

    async def __aenter__(self) -> Self:
        allow_connections(self._concurrency)
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines()
        self._drop = self._deadlines.drop
        self._dialing: set[asyncio.Task[None]] = set()
        self._pool = Pool(time.monotonic)
        self._dialer = Dialer(
            self._address,
            self.proxy,
            make=partial(Connection, self._max_body, self._names, self._pool.live, self._inflow),
            clock=time.monotonic,
        )
        self._dials = asyncio.Semaphore(_DIALS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.close()
        for dialing in self._dialing:
            dialing.cancel()
        if self._dialing:
            await asyncio.wait(self._dialing)
        await self._dialer.close()
        await self._pool.close()

    async def send(self, path: str, model: str | None, body: bytes) -> Reply:
        """POSTs a body to an endpoint's path and gives back what came; faults of the network are Replies too.

        Redirects are not followed: a 3xx is the Reply. An answer that is not whole has status None, whatever
        part of it came; `detail` names the HTTP status then, `headers` and `body` hold what there is.
        Raises ValueError for a path that is no endpoint's. Only cancellation interrupts it.
        """
        return await self.post(self._head(path, model), body)

    async def fetch(self, path: str) -> Reply:
        """GETs a path below the base URL, such as /models; free of charge. Otherwise as `send`."""
        return await self.post(self._head(path, None, method="GET"), b"")

    def start(self, path: str, model: str | None, body: bytes, landed: Landed) -> Sending:
        """As `send`, without a task of its own: `landed` hears what came, and is never called from within."""
        return self._start(self._head(path, model), body, landed, time.monotonic())

    async def post(self, head: bytes, body: bytes, *, since: float | None = None) -> Reply:
        """As `send`, for a head that is built already, up to the value of Content-Length.

        `since` is when the call began by the monotonic clock, if that was not now.
        """
        came: asyncio.Future[Reply] = self._loop.create_future()

        def landed(outcome: Reply | BaseException) -> None:
            if came.done():
                return
            if isinstance(outcome, BaseException):
                came.set_exception(outcome)
            else:
                came.set_result(outcome)

        sending = self._start(head, body, landed, time.monotonic() if since is None else since)
        try:
            return await came
        except asyncio.CancelledError:
            sending.cancel()
            raise

    def _start(self, head: bytes, body: bytes, landed: Landed, since: float) -> Sending:
        sending = Sending(landed, since, reply=self._reply, drop=self._drop)
        connection = self._pool.take(since)
        if connection is None:
            sending.dialing = dialing = self._loop.create_task(self._dial(sending, head, body))
            self._dialing.add(dialing)
            dialing.add_done_callback(self._dialing.discard)
        else:
            sending.connection = connection
            connection.ask(sending, head, body)
        self._deadlines.add(sending, since + self._deadline)
        return sending

    async def _dial(self, sending: Sending, head: bytes, body: bytes) -> None:
        try:
            sending.connection = connection = await self._connect()
            connection.ask(sending, head, body)
        except asyncio.CancelledError:
            sending.land(self._not_sent(ConnectionAbortedError("given up"), sending.since))
            raise
        except (OSError, ProxyRefusedError) as error:
            sending.land(self._not_sent(error, sending.since))
        except BaseException as error:  # noqa: BLE001 - the outermost frame of a task that nobody awaits
            sending.land(error)

    def _reply(self, sending: Sending, ending: Ending | None) -> Reply:
        """What came of a call that is over."""
        connection, started = sending.connection, sending.since
        if connection is None:
            # Its time was over before there was a connection.
            assert sending.dialing is not None
            sending.dialing.cancel()
            return self._not_sent(TimeoutError(), started)
        ended = time.monotonic()
        status, headers, content = connection.take()
        if ending is not None:
            connection.abort()
            return self._not_whole(ending, status, headers, content, ended - started)
        self._pool.put_soon(connection, ended)
        if "content-encoding" in headers:
            try:
                content = inflated(content, headers["content-encoding"], self._max_body)
            except BrokenBodyError as error:
                return self._unpackable(error, status, headers, content, ended - started)
        return Reply(status, headers, content, None, "", True, ended - started)

    async def _connect(self) -> Connection:
        async with asyncio.timeout(self._deadline):
            while True:
                async with self._dials:
                    try:
                        async with asyncio.timeout(self._connect_timeout):
                            return await self._dialer.dial()
                    except OSError as error:
                        if error.errno not in _NO_FILES:
                            raise
                # The other calls hold all files that the system allows: wait for one of theirs.
                await asyncio.sleep(_FILES_SECONDS)
                connection = self._pool.take(time.monotonic())
                if connection is not None:
                    return connection

    def _not_sent(self, error: OSError | ProxyRefusedError, started: float) -> Reply:
        detail = self._dialer.explain(error, min(self._connect_timeout, self._deadline))
        elapsed = time.monotonic() - started
        return Reply(None, fault="connect", detail=detail, sent=False, elapsed=elapsed)

    def _not_whole(
        self, ending: Ending, status: int | None, headers: dict[str, str], body: bytes, elapsed: float
    ) -> Reply:
        fault, reason = ending
        told = {
            "timeout": f"did not answer within {self._deadline:g} s",
            "reset": f"closed the connection without an answer ({reason})",
            "protocol": f"gave an answer that is not valid HTTP ({reason})",
        }
        if status is None:
            return Reply(None, fault=fault, detail=f"{self._host} {told[fault]}", elapsed=elapsed)
        told = {
            "timeout": f"only {len(body)} bytes of the answer came within {self._deadline:g} s",
            "cut": f"the connection ended after {len(body)} bytes of the answer ({reason})",
            "protocol": f"what followed is not valid HTTP ({reason})",
            "too_large": f"the answer is larger than {self._max_body} bytes",
        }
        detail = f"HTTP {status} from {self._host}, but {told[fault]}"
        return Reply(None, headers, body, fault=fault, detail=detail, elapsed=elapsed)

    def _unpackable(
        self,
        error: BrokenBodyError,
        status: int | None,
        headers: dict[str, str],
        body: bytes,
        elapsed: float,
    ) -> Reply:
        detail = f"HTTP {status} from {self._host}, but {error.detail}"
        return Reply(None, headers, body, fault=error.fault, detail=detail, elapsed=elapsed)
