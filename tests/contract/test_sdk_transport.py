"""Credentials that are made for each call: when they are asked for, and what happens where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import replace

import httpx2
import pytest
from wire_server import ASKED, PATH, ask_all, saying, sdk, serving, whole

from runner.api.account import Account
from runner.api.dataplane import transport_for
from runner.api.sdk_transport import SdkTransport, _Call, _Carrier
from runner.api.transport import Transport
from runner.errors import AccessRefused
from runner.model import Reply

Run = Callable[..., Reply]


async def ask_with(credential: Callable[[], Awaitable[str]], heads: list[bytes], **options: float) -> Reply:
    async def noting(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        heads.append(request.partition(b"\r\n\r\n")[0])
        writer.write(whole())
        return True

    async with serving(noting) as url:
        account = Account("openai", url, credential=credential)
        async with SdkTransport(account, concurrency=1, **options) as transport:
            for _ in range(2):
                reply = await transport.send(PATH, "m", ASKED)
    return reply


def test_each_call_has_its_own_credential(run: Run) -> None:
    made = iter(("first", "second"))
    heads: list[bytes] = []

    async def credential() -> str:
        await asyncio.sleep(0)
        return next(made)

    assert run(ask_with(credential, heads)).status == 200
    for head, token in zip(heads, (b"first", b"second"), strict=True):
        assert b"\r\nauthorization: Bearer " + token + b"\r\n" in head.replace(
            b"Authorization", b"authorization"
        )


def test_azure_is_asked_by_deployment_with_a_token_for_each_call() -> None:
    requests: list[bytes] = []
    made = iter(("first", "second"))

    async def credential() -> str:
        return next(made)

    async def noting(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        requests.append(request)
        writer.write(whole())
        return True

    async def main() -> None:
        async with serving(noting) as url:
            base = url.replace("/v1", "/openai")
            account = Account("azure", base, api_version="2025-04-01", credential=credential)
            async with SdkTransport(account, concurrency=1) as transport:
                for model in ("gpt 4/o", "m"):
                    assert (await transport.send(PATH, model, ASKED)).status == 200

    asyncio.run(main())
    first, second = requests
    target = b"/openai/deployments/gpt%204%2Fo/chat/completions?api-version=2025-04-01"
    assert first.startswith(b"POST " + target + b" HTTP/1.1\r\n")
    assert b"\r\nauthorization: Bearer first\r\n" in first
    assert b"\r\nauthorization: Bearer second\r\n" in second
    assert b"api-key" not in first.lower()
    assert first.endswith(b"\r\n\r\n" + ASKED)


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError("sk-secret"), ValueError("sk-secret"), PermissionError()]
)
def test_a_credential_that_cannot_be_had_is_not_sent(run: Run, error: Exception) -> None:
    heads: list[bytes] = []

    async def credential() -> str:
        raise error

    reply = run(ask_with(credential, heads))
    assert (reply.status, reply.fault, reply.sent) == (None, "connect", False)
    assert f"no credential for the call ({type(error).__name__})" in reply.detail
    assert "sk-secret" not in reply.detail
    assert heads == []


def test_a_credential_that_does_not_come_is_not_sent(run: Run) -> None:
    heads: list[bytes] = []

    async def credential() -> str:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("it never comes")

    reply = run(ask_with(credential, heads, deadline=0.1))
    assert (reply.status, reply.fault, reply.sent) == (None, "connect", False)
    assert "no credential for the call within 0.1 s" in reply.detail
    assert heads == []


def test_a_credential_that_is_refused_for_good_ends_the_run() -> None:
    async def credential() -> str:
        raise AccessRefused("Log in again.")

    with pytest.raises(AccessRefused, match="Log in again"):
        asyncio.run(ask_with(credential, []))


def test_a_second_request_of_one_call_never_leaves() -> None:
    """What the SDK does after a 401 where it could fetch a new token: the answer is the 401 all the same."""
    replies = asyncio.run(ask_all(sdk, saying(whole(b"{}", status="401 No"), whole(), keep=True), 2))
    assert [reply.status for reply in replies] == [401, 200]

    async def main() -> None:
        current: ContextVar[_Call] = ContextVar("call")
        async with asyncio.timeout(None) as patience:
            call = _Call(0.0, patience)
            call.reply = replies[0]
            current.set(call)
            account = Account("openai", "http://127.0.0.1:1/v1")
            async with Transport(sdk("http://127.0.0.1:1/v1")._wire, concurrency=1) as below:
                carrier = _Carrier(account, below, current)
                with pytest.raises(httpx2.ReadError, match="one request"):
                    await carrier.handle_async_request(httpx2.Request("POST", "http://127.0.0.1:1/v1"))

    asyncio.run(main())


def test_the_lean_transport_serves_where_one_credential_lasts() -> None:
    async def credential() -> str:
        return "token"

    lasting = Account("openai", "http://127.0.0.1:1/v1", api_key="sk-1")
    assert type(transport_for(lasting, concurrency=1)) is Transport
    assert type(transport_for(replace(lasting, credential=credential), concurrency=1)) is SdkTransport
    assert "token" not in repr(replace(lasting, credential=credential))
    assert replace(lasting, api_key=None, credential=credential).has_key
