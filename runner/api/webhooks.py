"""Webhooks: what a provider delivers about our batches, told from what others send, and answered at once.

A signature stands over the raw bytes (Standard Webhooks; openai-python 3, `client.webhooks.verify_signature`), so
nothing here unpacks or reads a body before it is verified.
"""

from __future__ import annotations

import asyncio
import binascii
import logging
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from runner.api.account import Account
from runner.api.client import control
from runner.errors import BadConfiguration, RunnerError

if TYPE_CHECKING:
    from aiohttp import web

MAX_BODY = 2**20
"""The longest body that is read, in bytes; an event has a few hundred."""

TOLERANCE = 300
"""How far a delivery's time may lie from ours, in seconds, before or after."""

READ_SECONDS = 10.0
"""How long a body may take to arrive."""

_SIGNED = ("webhook-id", "webhook-timestamp", "webhook-signature")
_PREFIX = "whsec_"


class Delivery(NamedTuple):
    """One event, as its provider delivered it.

    `webhook_id` is the same however often the event is delivered. `subject` is the id of what it tells of, None
    where it names none.
    """

    webhook_id: str
    type: str
    subject: str | None


class NotGenuine(Exception):
    """A delivery that is not the provider's, or not of now. Its text says why, and quotes nothing of it."""


class Signatures:
    """Tells the provider's own deliveries from forged ones, by the secret that it shares with us.

    Raises BadConfiguration where the secret cannot be one.
    """

    def __init__(self, account: Account, secret: str) -> None:
        check_secret(secret)
        self._secret = secret
        self._client = control(account)

    async def close(self) -> None:
        await self._client.close()

    def read(self, body: bytes, headers: Mapping[str, str]) -> Delivery:
        """The event that was delivered. NotGenuine where its signature, or its time, is not right."""
        import openai

        signed = {name: headers.get(name, "") for name in _SIGNED}
        for name, text in signed.items():
            if not text:
                raise NotGenuine(f"it has no {name} header")
            # The SDK compares signatures as text, and what is not ASCII makes that a TypeError.
            if not text.isascii():
                raise NotGenuine(f"its {name} header is not ASCII")
        try:
            self._client.webhooks.verify_signature(body, signed, secret=self._secret, tolerance=TOLERANCE)
        except openai.InvalidWebhookSignatureError as error:
            raise NotGenuine(_reason(str(error))) from None
        except ValueError:
            raise NotGenuine("its body is not UTF-8") from None
        return _event(body, signed["webhook-id"])


class WebhookServer:
    """Takes deliveries over HTTP: POST, to any path.

    `take` keeps a delivery; when it returns, the sender is told 200, and if it raises a RunnerError, 503, so
    that it is delivered again. `refused` hears of whatever else came: the status, and why.
    """

    def __init__(
        self,
        signatures: Signatures,
        take: Callable[[Delivery], Awaitable[None]],
        refused: Callable[[int, str], None],
        *,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._signatures = signatures
        self._take = take
        self._refused = refused
        self._read_seconds = read_seconds
        self._web: web.Server | None = None
        self._listener: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> int:
        """Listen; the port, which is any free one for 0. OSError if it cannot be had."""
        from aiohttp import web

        self._web = web.Server(
            self._handle,
            access_log=None,
            # A body is verified as it came; and what is not verified is not worth unpacking.
            auto_decompress=False,
            keepalive_timeout=75.0,
            lingering_time=2.0,
            logger=_silent(),
        )
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._web, host, port)
        return int(self._listener.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Take nothing more, and end what is under way."""
        if self._listener is not None:
            self._listener.close()
        if self._web is not None:
            await self._web.shutdown(0.3)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        from aiohttp import web

        status, words = await self._answer(request)
        answer = web.Response(status=status, text=f"{words}\n")
        if status == 405:
            answer.headers["Allow"] = "POST"
        if status >= 400:
            answer.force_close()
        return answer

    async def _answer(self, request: web.BaseRequest) -> tuple[int, str]:
        if request.method != "POST":
            self._refused(405, "it is no POST")
            return 405, "Webhooks are delivered by POST."
        try:
            async with asyncio.timeout(self._read_seconds):
                body = await _body(request)
        except TimeoutError:
            self._refused(408, f"its body took longer than {self._read_seconds:g} seconds")
            return 408, "The body took too long."
        if body is None:
            self._refused(413, f"its body is longer than {MAX_BODY // 2**20} MiB")
            return 413, f"The body is longer than {MAX_BODY} bytes."
        try:
            delivery = self._signatures.read(body, request.headers)
        except NotGenuine as error:
            self._refused(400, str(error))
            return 400, "This is no delivery of ours."
        try:
            await self._take(delivery)
        except RunnerError as error:
            self._refused(503, str(error))
            return 503, "It could not be kept; deliver it again."
        return 200, "ok"


def check_secret(secret: str) -> None:
    """BadConfiguration for a secret that nothing can be signed with; with an empty one everybody could sign."""
    try:
        raw = b64decode(secret.removeprefix(_PREFIX)) if secret.startswith(_PREFIX) else secret.encode()
    except (binascii.Error, ValueError):
        raw = b""
    if not raw:
        raise BadConfiguration(
            "OPENAI_WEBHOOK_SECRET is no webhook secret: it begins with whsec_, and base64 follows. Copy it whole "
            "from where the webhook was made."
        )


async def _body(request: web.BaseRequest) -> bytes | None:
    """The raw body; None as soon as it is longer than may be."""
    if (request.content_length or 0) > MAX_BODY:
        return None
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            return None
    return bytes(body)


def _event(body: bytes, webhook_id: str) -> Delivery:
    try:
        event: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise NotGenuine("its body is not JSON") from None
    kind = event.get("type") if isinstance(event, dict) else None
    if not isinstance(kind, str):
        raise NotGenuine("its body is no event")
    data = event.get("data")
    subject = data.get("id") if isinstance(data, dict) else None
    return Delivery(webhook_id, kind, subject if isinstance(subject, str) and subject else None)


def _reason(said: str) -> str:
    if "too old" in said or "too new" in said:
        return f"its time is more than {TOLERANCE} seconds from this machine's"
    if "timestamp" in said:
        return "its webhook-timestamp is no time"
    return "its signature is not made with this secret"


def _silent() -> logging.Logger:
    """A logger for aiohttp that says nothing: whatever a stranger sends is answered, and not worth a traceback."""
    logger = logging.getLogger("runner.webhooks")
    logger.disabled = True
    return logger
