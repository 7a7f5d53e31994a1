"""One request of the control plane as a Reply: what came; or what broke, and whether a byte of it had left."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import anyio
import httpx2
import openai

from runner.model import Reply

BROKEN = (
    openai.OpenAIError,
    httpx2.HTTPError,
    httpx2.StreamError,
    ssl.SSLError,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    ConnectionError,
    TimeoutError,
)
"""What the SDK raises, and what passes through it, where no whole answer came. Other OSErrors are the disk's."""

_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
"""What is raised only before the first byte of a request leaves: the connection, its TLS and its tunnel."""


class _Answer(Protocol):
    @property
    def http_response(self) -> httpx2.Response: ...


async def exchange(ask: Callable[[], Awaitable[_Answer]], *, seconds: float) -> Reply:
    """Ask once, for so many seconds in all. Never raises for what a server or a network does.

    A Reply without a status has the fault "tls_error" or "proxy_authentication" where it will never be
    otherwise, and else "connect", "timeout" or "broken"; `sent` is False only where surely no byte left.
    """
    try:
        async with asyncio.timeout(seconds):
            response = (await ask()).http_response
    except openai.APIStatusError as error:
        response = error.response
    except BROKEN as error:
        return broken(error, seconds)
    return as_reply(response)


def as_reply(response: httpx2.Response) -> Reply:
    """A response that was read as a Reply."""
    headers = {name.lower(): text for name, text in response.headers.items()}
    return Reply(response.status_code, headers, response.content)


def broken(error: BaseException, seconds: float) -> Reply:
    """The Reply that one of BROKEN comes to."""
    chain = list(_chain(error))
    sent = not any(isinstance(one, _UNSENT) for one in chain)
    name = type(chain[1] if len(chain) > 1 else error).__name__
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in chain):
        detail = "has no certificate that is trusted here. For an authority of your own set SSL_CERT_FILE"
        return Reply(None, fault="tls_error", detail=detail, sent=sent)
    proxy = next((one for one in chain if isinstance(one, httpx2.ProxyError)), None)
    if proxy is not None:
        fault = "proxy_authentication" if str(proxy).startswith("407") else "connect"
        detail = f"cannot be reached: the proxy answered {str(proxy)[:3]}"
        return Reply(None, fault=fault, detail=detail, sent=sent)
    if not sent:
        return Reply(None, fault="connect", detail=f"cannot be reached ({name})", sent=False)
    if any(isinstance(one, (TimeoutError, httpx2.TimeoutException)) for one in chain):
        return Reply(None, fault="timeout", detail=f"did not answer within {seconds:.0f} s")
    return Reply(None, fault="broken", detail=f"ended the connection without a whole answer ({name})")


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    for _ in range(10):
        if one is None:
            return
        yield one
        one = one.__cause__ or one.__context__
