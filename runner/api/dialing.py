"""The way to a server: its name, TCP, a proxy where one is set, TLS. Nothing of a request is sent here."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType

from runner.api.connection import Connection
from runner.api.origin import Address
from runner.api.proxy import Proxy, ProxyRefusedError, Tunnel
from runner.api.route import tls_context

# RFC 8305: how long an address may take before the next one is tried beside it.
_NEXT_ADDRESS = 0.25
_NAME_SECONDS = 10.0
# A server that never says goodbye would hold a file of ours for half a minute.
_GOODBYE_SECONDS = 1.0
# A long answer is minutes of silence, after which many a router on the way forgets the connection.
_PROBE_SECONDS, _PROBES = 60, 5


class Names:
    """The addresses of one host. Looked up once for all who wait, again after ten seconds.

    Where a later look-up fails, the addresses found before go on serving.
    """

    def __init__(self, host: str, port: int, clock: Callable[[], float]) -> None:
        self._host = host
        self._port = port
        self._clock = clock
        self._until = 0.0
        self._error: OSError | None = None
        self._looking: asyncio.Task[None] | None = None
        self._found: Sequence[AddrInfoType] = ()
        try:
            self._found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            self._until = float("inf")
        except socket.gaierror:
            pass

    async def addresses(self) -> Sequence[AddrInfoType]:
        """Socket addresses in the system's order, turned by one each time. Raises OSError if there is none."""
        if self._clock() >= self._until:
            if self._looking is None:
                self._looking = asyncio.create_task(self._look_up())
            await asyncio.shield(self._looking)
        if not self._found:
            raise self._error or OSError("no address")
        # Several replicas behind one name share the connections.
        self._found = [*self._found[1:], self._found[0]]
        return self._found

    async def _look_up(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._found = await loop.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
            self._until = self._clock() + _NAME_SECONDS
        except OSError as error:
            self._error = error
        finally:
            self._looking = None

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])


class Dialer:
    """Makes connections to one server, through `proxy` if there is one.

    `make` makes an unconnected Connection. Certificates are read once, here: raises BadConfiguration for a
    proxy whose own address cannot be used.
    """

    def __init__(
        self,
        address: Address,
        proxy: Proxy | None,
        *,
        make: Callable[[], Connection],
        clock: Callable[[], float],
    ) -> None:
        self._address = address
        self._proxy = proxy
        self._make = make
        self._tls = tls_context(address.url) if address.scheme == "https" else None
        self._proxy_tls = tls_context(proxy.url) if proxy is not None and proxy.secure else None
        near = proxy or address
        self._names = Names(near.host, near.port, clock)

    async def dial(self) -> Connection:
        """A new connection. Raises OSError, ssl.SSLError among them, or ProxyRefusedError."""
        loop = asyncio.get_running_loop()
        sock = await self._reach()
        proxy, tls = self._proxy, self._tls
        if proxy is None:
            return await self._connect(loop, sock, tls, self._address.host)
        if tls is None:
            return await self._connect(loop, sock, self._proxy_tls, proxy.host)
        request = proxy.connect_request(self._address.host, self._address.port)
        below, tunnel = await loop.create_connection(
            partial(Tunnel, request),
            sock=sock,
            ssl=self._proxy_tls,
            server_hostname=proxy.host if self._proxy_tls else None,
            ssl_shutdown_timeout=_GOODBYE_SECONDS if self._proxy_tls else None,
        )
        try:
            await tunnel.opened
            connection = self._make()
            above = await loop.start_tls(
                below,
                connection,
                tls,
                server_hostname=self._address.host,
                ssl_shutdown_timeout=_GOODBYE_SECONDS,
            )
        except BaseException:
            below.abort()
            raise
        if above is None:
            raise ConnectionResetError("the connection ended in the handshake")
        connection.connection_made(above)
        return connection

    async def _connect(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, tls: ssl.SSLContext | None, host: str
    ) -> Connection:
        _, connection = await loop.create_connection(
            self._make,
            sock=sock,
            ssl=tls,
            server_hostname=host if tls else None,
            ssl_shutdown_timeout=_GOODBYE_SECONDS if tls else None,
        )
        return connection

    async def _reach(self) -> socket.socket:
        addresses = await self._names.addresses()
        try:
            sock = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS)
        except RuntimeError as error:  # uvloop's word for some refusals
            raise ConnectionError(str(error)) from error
        try:
            _set_up(sock)
        except OSError:  # macOS: it has ended already
            sock.close()
            raise
        return sock

    async def close(self) -> None:
        await self._names.close()

    def explain(self, error: Exception, seconds: float) -> str:
        """Why there is no connection, for the user; `seconds` is the time that it had."""
        host = self._address.origin
        through = f" through the proxy {self._proxy.name} (HTTPS_PROXY, NO_PROXY)" if self._proxy else ""
        if isinstance(error, ProxyRefusedError):
            return f"{host}: the proxy answered {error.said} to CONNECT{through}"
        if isinstance(error, ssl.SSLError):
            reason = getattr(error, "verify_message", None) or error.reason or "TLS failed"
            return (
                f"{host}: no trusted TLS connection{through}: {reason}. If your network has a certificate "
                "authority of its own, name its file in SSL_CERT_FILE"
            )
        if isinstance(error, socket.gaierror):
            return f"{host}: the name cannot be resolved{through}: {error.strerror}"
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, TimeoutError) and number is None:
            return f"{host}: no connection within {seconds:g} s{through}"
        reason = os.strerror(number) if number else str(error) or type(error).__name__
        return f"{host}: no connection{through}: {reason}"


def _set_up(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Not every platform has them all, and macOS calls the first one otherwise.
    first = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"
    options = {first: _PROBE_SECONDS, "TCP_KEEPINTVL": _PROBE_SECONDS, "TCP_KEEPCNT": _PROBES}
    for name, number in options.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), number)
