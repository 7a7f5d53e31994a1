"""The data plane: bytes out, one Reply back, each send exactly one HTTP request and never a retry.

What a Reply means is not decided here; only what happened on the wire is told, without guessing: whether any
byte of the request may have left (`sent`), and whether the answer came whole.
"""

from __future__ import annotations

import asyncio
import resource
import time
from functools import lru_cache
from types import MappingProxyType, TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from runner.api.inflate import BrokenBodyError, inflated
from runner.api.origin import parse
from runner.api.route import proxy_for, proxy_name, tls_context
from runner.api.wire import Wire
from runner.errors import BadConfiguration
from runner.model import Reply

# uvicorn and Node close an idle connection after 5 s; whoever writes into that moment has an ambiguous call.
_KEEPALIVE = 4.0
_HEADER_BYTES = 64 * 2**10
_STALE = "the kept connection had ended or gone out of step, and nothing was sent"
_FILES_BESIDE_CONNECTIONS = 40
_OURS = MappingProxyType({"accept-encoding": "gzip, deflate", "content-type": "application/json"})


class _Request(aiohttp.Payload):
    """A request body that knows whether any byte of its request may have left.

    aiohttp holds the headers back until the body's first write, so that before it nothing has left.
    """

    _value: bytes

    def __init__(self, body: bytes) -> None:
        super().__init__(body, content_type="application/json")
        self.begun = False

    @property
    def size(self) -> int:
        return len(self._value)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        transport = writer.transport
        # aiohttp marks a kept connection so when an answer lies in it that nobody asked for: it would become
        # the answer to this request, and one row would get what belongs to another.
        desynchronised = getattr(getattr(writer, "protocol", None), "should_close", False)
        if transport is None or transport.is_closing() or desynchronised:
            raise aiohttp.ClientConnectionResetError(_STALE)
        self.begun = True
        await writer.write(self._value)


class Transport:
    """Sends calls to one account, as many at once as it is asked to; use it as `async with Transport(...)`.

    `deadline` bounds a call from send to last byte, `connect_timeout` its way to a connection (name, TCP,
    proxy, TLS), both in seconds; `max_body` the bytes of an answer, packed or unpacked. `concurrency` is the
    most calls that will be in flight; no call waits here for another.
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
    ) -> None:
        self._wire = wire
        self._concurrency = concurrency
        self._deadline = deadline
        self._connect_timeout = connect_timeout
        self._max_body = max_body
        self._host = parse(wire.base_url).origin
        self._proxy = proxy_for(wire.base_url)
        self._url = lru_cache(maxsize=1024)(lambda path, model: URL(wire.url(path, model), encoded=True))
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        _allow_connections(self._concurrency)
        headers = {n: text for n, text in self._wire.headers.items() if n.lower() not in _OURS}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=_KEEPALIVE, ssl=tls_context(self._wire.base_url)
            ),
            headers=headers | dict(_OURS),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            # The proxy is found once, in `route`. aiohttp's own way asks anew for each call, in a thread, and
            # would send what ~/.netrc says beside the key.
            trust_env=False,
            proxy=self._proxy,
            auto_decompress=False,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def send(self, path: str, model: str | None, body: bytes) -> Reply:
        """POSTs a body to an endpoint's path and gives back what came; faults of the network are Replies too.

        Redirects are not followed: a 3xx is the Reply. An answer that is not whole has status None, whatever
        part of it came; `detail` names the HTTP status then, `headers` and `body` hold what there is.
        Raises ValueError for a path that is no endpoint's. Only cancellation interrupts it.
        """
        assert self._session is not None, "use it as `async with Transport(...)`"
        url = self._url(path, model)
        request = _Request(body)
        response: aiohttp.ClientResponse | None = None
        chunks: list[bytes] = []
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._deadline):
                response = await self._session.post(url, data=request, allow_redirects=False)
                if not request.begun:
                    raise aiohttp.ClientConnectionResetError(_STALE)
                await self._read(response, chunks)
            headers = _plain(response)
            content = inflated(b"".join(chunks), headers.get("content-encoding", ""), self._max_body)
            return Reply(response.status, headers, content, elapsed=time.monotonic() - started)
        except (aiohttp.ClientError, OSError, BrokenBodyError) as error:
            elapsed = time.monotonic() - started
            if not request.begun:
                detail = self._not_sent(error)
                return Reply(None, fault="connect", detail=detail, sent=False, elapsed=elapsed)
            if response is not None:
                return self._not_whole(error, response, b"".join(chunks), elapsed)
            fault, detail = self._unanswered(error)
            return Reply(None, fault=fault, detail=detail, elapsed=elapsed)
        finally:
            # After a whole answer the connection is back in the pool already, and this changes nothing.
            if response is not None:
                response.close()

    async def _read(self, response: aiohttp.ClientResponse, chunks: list[bytes]) -> None:
        announced = response.content_length or 0
        size = 0
        while announced <= self._max_body:
            chunk = await response.content.readany()
            if not chunk:
                return
            chunks.append(chunk)
            size += len(chunk)
            announced = max(announced, size)
        chunks.clear()
        raise BrokenBodyError("too_large", f"the answer is larger than {self._max_body} bytes")

    def _not_whole(
        self, error: Exception, response: aiohttp.ClientResponse, body: bytes, elapsed: float
    ) -> Reply:
        if isinstance(error, BrokenBodyError):
            fault, reason = error.fault, error.detail
        elif isinstance(error, TimeoutError):
            fault, reason = (
                "timeout",
                f"only {len(body)} bytes of the answer came within {self._deadline:g} s",
            )
        else:
            name = type(error).__name__
            fault, reason = "cut", f"the connection ended after {len(body)} bytes of the answer ({name})"
        detail = f"HTTP {response.status} from {self._host}, but {reason}"
        return Reply(None, _plain(response), body, fault=fault, detail=detail, elapsed=elapsed)

    def _unanswered(self, error: Exception) -> tuple[str, str]:
        if isinstance(error, TimeoutError):
            return "timeout", f"{self._host} did not answer within {self._deadline:g} s"
        if isinstance(error, aiohttp.ClientResponseError):
            return "protocol", f"what {self._host} answered is not valid HTTP"
        return "reset", f"{self._host} closed the connection without an answer ({type(error).__name__})"

    def _not_sent(self, error: Exception) -> str:
        host = self._host
        through = (
            f" through the proxy {proxy_name(self._proxy)} (HTTPS_PROXY, NO_PROXY)" if self._proxy else ""
        )
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return f"{host}: the proxy answered {error.status} to CONNECT{through}"
        if isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError)):
            cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
            reason = getattr(cause, "verify_message", None) or getattr(cause, "reason", None) or "TLS failed"
            return (
                f"{host}: no trusted TLS connection{through}: {reason}. If your network has a certificate "
                "authority of its own, name its file in SSL_CERT_FILE"
            )
        if isinstance(error, TimeoutError):
            seconds = min(self._connect_timeout, self._deadline)
            return f"{host}: no connection within {seconds:g} s{through}"
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return f"{host}: the name cannot be resolved{through}: {error.os_error.strerror}"
        if isinstance(error, aiohttp.ClientOSError) and not isinstance(error, aiohttp.ClientConnectorError):
            return f"{host}: {_STALE}{through}"
        reason = getattr(getattr(error, "os_error", error), "strerror", None) or type(error).__name__
        return f"{host}: no connection{through}: {reason}"


def _plain(response: aiohttp.ClientResponse) -> dict[str, str]:
    headers = {name.lower(): text for name, text in response.headers.items()}
    headers.pop("set-cookie", None)
    for name, text in headers.items():
        if not text.isascii():
            # aiohttp keeps bytes that are no UTF-8 as lone surrogates, which nothing can store.
            headers[name] = text.encode("utf-8", "surrogateescape").decode("latin-1")
    return headers


def affordable(count: int) -> int:
    """How many of `count` calls at once the system's limit of open files has room for, once it is raised."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        return count
    return max(1, min(count, hard - _FILES_BESIDE_CONNECTIONS))


def _allow_connections(count: int) -> None:
    """Raises the process's soft limit of open files where `count` calls need it (macOS starts at 256)."""
    needed = count + _FILES_BESIDE_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        # Beyond the hard limit, or the kernel's own, this is a ValueError or an OSError by platform.
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (ValueError, OSError) as error:
        raise BadConfiguration(
            f"{count} calls at once need {needed} open files, and the system does not allow so many. "
            "Lower --concurrency, or raise the limit (ulimit -n)."
        ) from error
