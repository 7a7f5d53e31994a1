"""An HTTP proxy on the way: what it is told, and the tunnel through it to a server that speaks TLS."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import unquote, urlsplit

from runner.api.route import proxy_name

_HEAD_BYTES = 64 * 2**10
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})[ \r]")


class ProxyRefusedError(Exception):
    """A proxy that did not open the tunnel: `said` is its status, or what was wrong with its answer."""

    def __init__(self, said: str) -> None:
        super().__init__(f"the proxy answered {said}")
        self.said = said


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a proxy listens. `secure` means TLS to the proxy itself; repr shows no password."""

    host: str
    port: int
    secure: bool
    name: str
    authorization: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Its URL, without user name and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"

    def connect_request(self, host: str, port: int) -> bytes:
        """The request for a tunnel to a server."""
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if self.authorization is not None:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")


def proxy_at(url: str) -> Proxy:
    """The proxy that a URL from `route.proxy_for` names, with its user name and password if it has them."""
    parts = urlsplit(url)
    assert parts.hostname
    secure = parts.scheme == "https"
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {b64encode(pair.encode()).decode('ascii')}"
    return Proxy(
        parts.hostname, parts.port or (443 if secure else 80), secure, proxy_name(url), authorization
    )


class Tunnel(asyncio.Protocol):
    """Asks a proxy for a tunnel; `opened` is done when it stands, or has the error."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._head = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._head += data
        while not self.opened.done():
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                if len(self._head) > _HEAD_BYTES:
                    self._refuse("without end")
                return
            found = _STATUS_LINE.match(head + b"\r")
            if found is None:
                self._refuse("no HTTP")
                return
            status = int(found[1])
            if 100 <= status < 200:
                self._head = rest
            elif not 200 <= status < 300:
                self._refuse(str(status))
            elif rest:
                # In TLS the client speaks first: whoever says something here is not the server.
                self._refuse("more than was asked")
            else:
                self.opened.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionResetError("the proxy closed the connection"))

    def _refuse(self, said: str) -> None:
        self.opened.set_exception(ProxyRefusedError(said))
