"""Certificates and proxies: whom a connection trusts, which way it takes, and what is said on that way."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from wire_server import ASKED, BODY, KEY, PATH, Plane, lean, listening, saying, serving, whole

from runner.model import Reply

Run = Callable[..., Reply]
Certificate = tuple[Path, ssl.SSLContext]


async def ask_tls(plane: Plane, context: ssl.SSLContext, host: str = "127.0.0.1") -> Reply:
    async with (
        serving(saying(whole()), context) as url,
        plane(url.replace("127.0.0.1", host)) as transport,
    ):
        return await transport.send(PATH, "m", ASKED)


def test_a_certificate_nobody_trusts_is_not_sent(run: Run, plane: Plane, certificate: Certificate) -> None:
    reply = run(ask_tls(plane, certificate[1]))
    assert (reply.status, reply.fault, reply.sent) == (None, "connect", False)
    assert "SSL_CERT_FILE" in reply.detail
    assert "self-signed" in reply.detail.replace(" ", "-")


def test_ssl_cert_file_is_honoured(
    run: Run, plane: Plane, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    assert run(ask_tls(plane, certificate[1])).status == 200
    # The certificate is trusted now, but it is not this host's.
    wrong = run(ask_tls(plane, certificate[1], host="localhost"))
    assert (wrong.fault, wrong.sent) == ("connect", False)
    assert "localhost" in wrong.detail


def test_a_large_body_goes_both_ways_through_tls(
    run: Run, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    large = b"0123456789abcdef" * 2**18

    async def echoing(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        writer.write(whole(request.partition(b"\r\n\r\n")[2]))
        return True

    async def main() -> list[Reply]:
        async with serving(echoing, certificate[1]) as url, lean(url) as transport:
            return [await transport.send(PATH, "m", body) for body in (large, ASKED, large)]

    assert [reply.body for reply in run(main())] == [large, ASKED, large]


def test_a_body_cut_in_tls_is_never_whole(
    run: Run, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    answers = [whole()[:n] for n in (0, 10, 60, len(whole()) - 1)]

    async def main() -> list[Reply]:
        async with serving(saying(*answers), certificate[1]) as url, lean(url) as transport:
            return [await transport.send(PATH, "m", ASKED) for _ in answers]

    assert [(reply.status, reply.fault) for reply in run(main())] == [
        (None, "reset"),
        (None, "reset"),
        (None, "cut"),
        (None, "cut"),
    ]


def test_a_handshake_that_never_ends_is_not_sent(run: Run, plane: Plane) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main() -> Reply:
        async with (
            listening(silent) as port,
            plane(f"https://127.0.0.1:{port}/v1", connect_timeout=0.2) as transport,
        ):
            return await transport.send(PATH, "m", ASKED)

    reply = run(main())
    assert (reply.status, reply.fault, reply.sent) == (None, "connect", False)
    assert "0.2 s" in reply.detail


def test_a_server_that_speaks_no_tls_is_not_sent(run: Run) -> None:
    async def main() -> Reply:
        async with (
            serving(saying(whole())) as url,
            lean(url.replace("http:", "https:"), connect_timeout=2) as transport,
        ):
            return await transport.send(PATH, "m", ASKED)

    reply = run(main())
    assert (reply.status, reply.fault, reply.sent) == (None, "connect", False)


@asynccontextmanager
async def proxying(port: int, heads: list[bytes], tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    """A proxy that leads every name to one port of this machine, and notes what it is asked."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        near_reader, near = await asyncio.open_connection("127.0.0.1", port)
        try:
            if head.startswith(b"CONNECT "):
                writer.write(
                    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 Connection established\r\nVia: us\r\n\r\n"
                )
            else:
                near.write(head)
            await asyncio.gather(relay(reader, near), relay(near_reader, writer))
        finally:
            near.close()

    async with listening(connected, tls) as at:
        yield at


def proxy_by(monkeypatch: pytest.MonkeyPatch, scheme: str, port: int) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"{scheme}://me:p%40ss%3Aw0rd@127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "")


@pytest.mark.parametrize("proxy", ["http", "https"])
@pytest.mark.parametrize("target", ["http", "https"])
def test_a_proxy_is_gone_through(
    run: Callable[..., list[Reply]],
    plane: Plane,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    proxy: str,
    target: str,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    heads: list[bytes] = []
    requests: list[bytes] = []
    large = b"0123456789abcdef" * 2**17

    async def noting(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        requests.append(request)
        writer.write(whole())
        return True

    async def main() -> list[Reply]:
        async with serving(noting, certificate[1] if target == "https" else None) as url:
            port = int(url.rpartition(":")[2].removesuffix("/v1"))
            async with proxying(port, heads, certificate[1] if proxy == "https" else None) as at:
                proxy_by(monkeypatch, proxy, at)
                headers = {"Authorization": f"Bearer {KEY}"}
                async with plane(f"{target}://api.example.com/v1", headers) as transport:
                    return [await transport.send(PATH, "m", body) for body in (ASKED, large)]

    replies = run(main())
    assert [(r.status, r.body, r.detail) for r in replies] == [(200, BODY, "")] * 2
    login = b"Proxy-Authorization: Basic " + b64encode(b"me:p@ss:w0rd")
    # One connection carried both calls.
    assert len(heads) == 1
    assert heads[0].count(login) == 1
    assert [r.partition(b"\r\n\r\n")[2] for r in requests] == [ASKED, large]
    assert all(b"\r\nHost: api.example.com\r\n" in request for request in requests)
    assert all(f"Bearer {KEY}".encode() in request for request in requests)
    if target == "https":
        assert heads[0].startswith(b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n")
        assert KEY.encode() not in heads[0]
        assert all(login not in request for request in requests)
    else:
        assert heads[0].startswith(b"POST http://api.example.com/v1/chat/completions HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "answered 407"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>", "answered 502"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "answered no HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "answered more than was asked"),
        (b"HTTP/1.1 200 " + b"a" * 100_000, "answered without end"),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection"),
    ],
)
def test_a_proxy_that_refuses_is_named_without_its_password(
    run: Run, plane: Plane, monkeypatch: pytest.MonkeyPatch, answer: bytes, said: str
) -> None:
    asked: list[bytes] = []
    left = asyncio.Event()

    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        if "closed" not in said:
            await reader.read()
        left.set()

    async def main() -> Reply:
        async with listening(refusing) as port:
            proxy_by(monkeypatch, "http", port)
            headers = {"Authorization": f"Bearer {KEY}"}
            async with plane("https://api.example.com/v1", headers) as transport:
                reply = await transport.send(PATH, "m", ASKED)
                # The connection to the proxy ends with the call, not with the run.
                await left.wait()
                return reply

    reply = run(main())
    assert (reply.status, reply.fault, reply.sent) == (None, "connect", False)
    assert said in reply.detail
    assert "HTTPS_PROXY" in reply.detail
    assert "w0rd" not in reply.detail
    assert "me" not in reply.detail.replace("name", "").split()
    assert asked[0].startswith(b"CONNECT api.example.com:443 ")
    assert b"Proxy-Authorization: Basic " in asked[0]
    assert KEY.encode() not in asked[0]


def test_a_certificate_behind_a_proxy_is_checked_too(
    run: Run, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> Reply:
        async with serving(saying(whole()), certificate[1]) as url:
            port = int(url.rpartition(":")[2].removesuffix("/v1"))
            async with proxying(port, [], None) as at:
                proxy_by(monkeypatch, "http", at)
                async with lean("https://api.example.com/v1") as transport:
                    return await transport.send(PATH, "m", ASKED)

    reply = run(main())
    assert (reply.status, reply.fault, reply.sent) == (None, "connect", False)
    assert "SSL_CERT_FILE" in reply.detail
    assert "through the proxy 127.0.0.1:" in reply.detail


def test_a_proxy_that_is_not_there_is_not_sent(
    run: Run, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> Reply:
        proxy_by(monkeypatch, "http", 1)
        async with plane("https://api.example.com/v1") as transport:
            return await transport.send(PATH, "m", ASKED)

    reply = run(main())
    assert (reply.status, reply.fault, reply.sent) == (None, "connect", False)
    assert "through the proxy 127.0.0.1:1 " in reply.detail
