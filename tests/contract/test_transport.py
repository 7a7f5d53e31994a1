"""The transport against a server that misbehaves in every way a network can."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import struct
import subprocess
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvloop

from runner.api.transport import Transport, _Request
from runner.api.wire import Wire
from runner.errors import BadConfiguration
from runner.model import Reply

PATH = "/chat/completions"
ASKED = b'{"model":"m"}'
BODY = b'{"id":"chatcmpl-1","choices":[{"message":{"content":"' + b"yes " * 60 + b'"}}]}'
KEY = "sk-canary-9f31c4"

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[bool | None]]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., object]:
    """Runs a coroutine on each of the event loops that the product may run on."""
    return request.param


def whole(body: bytes = BODY, *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def chunked(*parts: bytes, last: bool = True, headers: str = "") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{headers}\r\n".encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + (b"0\r\n\r\n" if last else b"")


def reset(writer: asyncio.StreamWriter) -> None:
    """Closes a connection by RST instead of FIN."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that reads whole requests and leaves the rest to `answer`; True keeps the connection."""
    open_now: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                request = head + await reader.readexactly(length)
                if not await answer(reader, writer, request):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            open_now.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls, backlog=256)
    scheme = "https" if tls else "http"
    try:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        left = list(open_now)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def saying(*answers: bytes, keep: bool = False) -> Answer:
    """Gives the answers in turn, one a request, and closes after each unless told to keep."""
    left = list(answers)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> bool:
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()
        return keep

    return answer


async def ask(answer: Answer, **options: float) -> Reply:
    async with serving(answer) as url, Transport(Wire(url), concurrency=1, **options) as transport:
        return await transport.send(PATH, "m", ASKED)


def test_a_whole_answer_comes_back_as_it_is(run: Callable[..., Reply]) -> None:
    reply = run(ask(saying(whole(headers="X-Request-ID: req_7\r\nContent-Type: application/json\r\n"))))
    assert (reply.status, reply.body, reply.fault, reply.sent) == (200, BODY, None, True)
    assert reply.request_id == "req_7"
    assert reply.headers["content-type"] == "application/json"
    assert 0 < reply.elapsed < 5


@pytest.mark.parametrize(
    "answer",
    [
        chunked(BODY[:100], BODY[100:]),
        b"HTTP/1.1 200 OK\r\n\r\n" + BODY,
        whole(gzip.compress(BODY), headers="Content-Encoding: gzip\r\n"),
        whole(gzip.compress(BODY[:9]) + gzip.compress(BODY[9:]), headers="Content-Encoding: x-gzip\r\n"),
        whole(zlib.compress(BODY), headers="Content-Encoding: deflate\r\n"),
        whole(zlib.compress(BODY)[2:-4], headers="Content-Encoding: deflate\r\n"),
        chunked(gzip.compress(BODY)[:30], gzip.compress(BODY)[30:], headers="Content-Encoding: GZIP\r\n"),
    ],
    ids=["chunked", "until-close", "gzip", "two-gzip-streams", "deflate", "raw-deflate", "gzip-chunked"],
)
def test_every_framing_of_a_body_gives_the_same_bytes(answer: bytes) -> None:
    reply = asyncio.run(ask(saying(answer)))
    assert (reply.status, reply.body, reply.fault) == (200, BODY, None)


def test_a_body_cut_at_any_byte_is_never_whole(run: Callable[..., object]) -> None:
    full = whole(BODY * 2, headers="x-request-id: req_1\r\n")
    head = full.index(b"\r\n\r\n") + 4
    positions = iter(range(len(full)))

    async def cutting(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> bool:
        writer.write(full[: next(positions)])
        return False

    async def main() -> list[Reply]:
        async with serving(cutting) as url, Transport(Wire(url), concurrency=1) as transport:
            return [await transport.send(PATH, "m", ASKED) for _ in range(len(full))]

    replies = run(main())
    assert len(replies) == len(full) > 600
    for position, reply in enumerate(replies):
        assert (reply.status, reply.sent) == (None, True), position
        assert reply.fault == ("reset" if position < head else "cut"), position
        assert reply.body == full[head:position]
        if position >= head:
            assert reply.request_id == "req_1"
            assert "HTTP 200" in reply.detail


def test_a_chunked_body_cut_at_any_byte_is_never_whole() -> None:
    full = chunked(BODY[:50], BODY[50:90])
    head = full.index(b"\r\n\r\n") + 4
    positions = iter(range(head, len(full) - 2))

    async def cutting(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> bool:
        writer.write(full[: next(positions)])
        return False

    async def main() -> list[Reply]:
        async with serving(cutting) as url, Transport(Wire(url), concurrency=1) as transport:
            return [await transport.send(PATH, "m", ASKED) for _ in range(head, len(full) - 2)]

    replies = asyncio.run(main())
    assert {(r.status, r.fault, r.sent) for r in replies} == {(None, "cut", True)}


def test_a_packed_body_cut_at_any_byte_is_never_whole() -> None:
    packed = gzip.compress(BODY)
    answers = [whole(packed[:n], headers="Content-Encoding: gzip\r\n") for n in range(1, len(packed))]

    async def main() -> list[Reply]:
        answer = saying(*answers, keep=True)
        async with serving(answer) as url, Transport(Wire(url), concurrency=1) as transport:
            return [await transport.send(PATH, "m", ASKED) for _ in answers]

    assert {(r.status, r.fault) for r in asyncio.run(main())} == {(None, "cut")}


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\nrest", "protocol"),
        (whole(b"this is no gzip", headers="Content-Encoding: gzip\r\n"), "cut"),
        (whole(BODY, headers="Content-Encoding: br\r\n"), "protocol"),
        (b"\x16\x03\x01 hello, wrong port\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: soon\r\n\r\n{}", "protocol"),
        (b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 5000 + b"\r\n{}", "protocol"),
        (b"HTTP/1.1 200 OK\r\nx-a: " + b"b" * 200_000 + b"\r\n\r\n{}", "protocol"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 50, "reset"),
    ],
    ids=["bad-chunk", "no-gzip", "br", "no-http", "bad-length", "many-headers", "long-header", "only-100"],
)
def test_an_answer_against_the_rules_is_a_fault_after_sending(
    run: Callable[..., Reply], answer: bytes, fault: str
) -> None:
    reply = run(ask(saying(answer)))
    assert (reply.status, reply.fault, reply.sent) == (None, fault, True)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nConte", whole()[:-20]])
def test_a_reset_is_a_fault_after_sending(run: Callable[..., Reply], said: bytes) -> None:
    async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: bytes) -> bool:
        writer.write(said)
        await writer.drain()
        reset(writer)
        return False

    reply = run(ask(resetting))
    assert (reply.status, reply.sent) == (None, True)
    assert reply.fault in ("reset", "cut")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_the_answer_and_the_key_goes_nowhere_else(status: str) -> None:
    seen: list[bytes] = []

    async def elsewhere(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        seen.append(request)
        writer.write(whole())
        return False

    async def main() -> Reply:
        async with serving(elsewhere) as other:
            answer = saying(whole(b"", status=status, headers=f"Location: {other}/chat/completions\r\n"))
            wire_headers = {"Authorization": f"Bearer {KEY}"}
            async with serving(answer) as url, Transport(Wire(url, wire_headers), concurrency=1) as transport:
                return await transport.send(PATH, "m", ASKED)

    reply = asyncio.run(main())
    assert reply.status == int(status[:3])
    assert seen == []


def test_each_send_is_exactly_one_request_even_where_the_server_drops_it() -> None:
    requests: list[bytes] = []

    async def dropping(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        requests.append(request)
        if len(requests) == 1:
            writer.write(whole())
            return True
        reset(writer)
        return False

    async def main() -> list[Reply]:
        async with serving(dropping) as url, Transport(Wire(url), concurrency=1) as transport:
            return [await transport.send(PATH, "m", ASKED) for _ in range(3)]

    first, second, third = asyncio.run(main())
    assert first.status == 200
    assert {(r.status, r.fault, r.sent) for r in (second, third)} == {(None, "reset", True)}
    assert len(requests) == 3


def test_a_connection_that_the_server_closed_between_calls_is_not_used_again(
    run: Callable[..., object],
) -> None:
    closed = asyncio.Event()
    connections: list[asyncio.StreamWriter] = []

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: bytes) -> bool:
        connections.append(writer)
        writer.write(whole())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set()
        return False

    async def main() -> list[Reply]:
        replies = []
        async with serving(closing) as url, Transport(Wire(url), concurrency=1) as transport:
            for _ in range(20):
                closed.clear()
                replies.append(await transport.send(PATH, "m", ASKED))
                await closed.wait()
                # The end of the connection is in our socket by now; one turn of the loop reads it.
                await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        return replies

    assert [r.status for r in run(main())] == [200] * 20
    assert len(connections) == 20


def test_what_follows_a_whole_answer_is_never_taken_for_the_next_one(run: Callable[..., object]) -> None:
    smuggled = whole(b'{"stolen": true}')
    answers = [whole() + smuggled, whole(b'{"own": 2}'), whole(b'{"own": 3}')]

    async def main() -> list[Reply]:
        answer = saying(*answers, keep=True)
        async with serving(answer) as url, Transport(Wire(url), concurrency=1) as transport:
            return [await transport.send(PATH, "m", ASKED) for _ in answers]

    assert [r.body for r in run(main())] == [BODY, b'{"own": 2}', b'{"own": 3}']


def test_what_arrives_between_two_answers_is_never_taken_for_the_second(run: Callable[..., object]) -> None:
    writers: list[asyncio.StreamWriter] = []

    async def keeping(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        writers.append(writer)
        writer.write(whole(b"answer to " + request[-1:]))
        return True

    async def main() -> list[Reply]:
        async with serving(keeping) as url, Transport(Wire(url), concurrency=1) as transport:
            first = await transport.send(PATH, "m", b"1")
            writers[0].write(whole(b"stolen"))
            await writers[0].drain()
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
            return [first, *[await transport.send(PATH, "m", b"%d" % n) for n in (2, 3)]]

    first, second, third = run(main())
    assert (first.body, third.body) == (b"answer to 1", b"answer to 3")
    assert (second.status, second.fault, second.sent) == (None, "connect", False)
    assert len(writers) == 2


def test_nothing_has_left_where_the_idle_connection_is_closing_already() -> None:
    class Closing:
        transport = SimpleNamespace(is_closing=lambda: True)

        async def write(self, chunk: bytes) -> None:
            raise AssertionError("written to a closing connection")

    request = _Request(ASKED)
    with pytest.raises(ConnectionResetError):
        asyncio.run(request.write(Closing()))
    assert not request.begun


def test_a_connection_is_kept_and_used_again() -> None:
    ports: set[int] = set()

    async def keeping(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> bool:
        ports.add(writer.get_extra_info("peername")[1])
        writer.write(whole())
        return True

    async def main() -> None:
        async with serving(keeping) as url, Transport(Wire(url), concurrency=1) as transport:
            for _ in range(10):
                assert (await transport.send(PATH, "m", ASKED)).status == 200

    asyncio.run(main())
    assert len(ports) == 1


@pytest.mark.parametrize(
    ("before", "drip"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\nx-slow: ", b"a"),
        (b"HTTP/1.1 200 OK\r\n", b""),
        (whole(BODY)[:-100], b"a"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["silence", "slow-header", "half-headers", "slow-body", "only-100"],
)
def test_the_deadline_ends_silence_and_slow_drips(
    run: Callable[..., Reply], before: bytes, drip: bytes
) -> None:
    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: bytes) -> bool:
        writer.write(before)
        # Reading from a client that has said all it will say: a pause that ends with the connection.
        while not reader.at_eof():
            try:
                await asyncio.wait_for(reader.read(1), 0.02)
            except TimeoutError:
                writer.write(drip)
        return False

    reply = run(ask(dripping, deadline=0.3))
    assert (reply.status, reply.fault, reply.sent) == (None, "timeout", True)
    assert 0.25 < reply.elapsed < 1.3


def test_a_body_beyond_the_limit_is_not_read_to_its_end() -> None:
    written = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> bool:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            await writer.drain()
            written += 0x10000

    reply = asyncio.run(ask(endless, max_body=100_000))
    assert (reply.status, reply.fault, reply.sent, reply.body) == (None, "too_large", True, b"")
    assert written < 2**26


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000000000\r\n\r\nabc",
        whole(gzip.compress(b"\0" * 5_000_000), headers="Content-Encoding: gzip\r\n"),
        chunked(zlib.compress(b"\0" * 5_000_000), headers="Content-Encoding: deflate\r\n"),
    ],
    ids=["announced", "gzip-bomb", "deflate-bomb"],
)
def test_what_would_grow_beyond_the_limit_is_refused(answer: bytes) -> None:
    reply = asyncio.run(ask(saying(answer), max_body=100_000))
    assert (reply.status, reply.fault) == (None, "too_large")


def test_a_body_of_exactly_the_limit_is_whole() -> None:
    for answer in (whole(), chunked(BODY), whole(gzip.compress(BODY), headers="Content-Encoding: gzip\r\n")):
        reply = asyncio.run(ask(saying(answer), max_body=len(BODY)))
        assert (reply.status, reply.body) == (200, BODY)


def test_a_refused_port_is_not_sent(run: Callable[..., Reply]) -> None:
    async def main() -> Reply:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
            async with Transport(Wire(url), concurrency=1) as transport:
                return await transport.send(PATH, "m", ASKED)

    reply = run(main())
    assert (reply.status, reply.fault, reply.sent) == (None, "connect", False)
    assert "127.0.0.1" in reply.detail


def test_an_unknown_name_is_not_sent() -> None:
    async def main() -> Reply:
        async with Transport(Wire("http://nowhere.invalid/v1"), concurrency=1) as transport:
            return await transport.send(PATH, "m", ASKED)

    reply = asyncio.run(main())
    assert (reply.status, reply.fault, reply.sent) == (None, "connect", False)
    assert "nowhere.invalid" in reply.detail


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that nobody has signed but itself."""
    folder = tmp_path_factory.mktemp("tls")
    pem, key = folder / "server.pem", folder / "server.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    return pem, context


async def ask_tls(context: ssl.SSLContext, host: str = "127.0.0.1") -> Reply:
    async with (
        serving(saying(whole()), context) as url,
        Transport(Wire(url.replace("127.0.0.1", host)), concurrency=1) as transport,
    ):
        return await transport.send(PATH, "m", ASKED)


def test_a_certificate_nobody_trusts_is_not_sent(
    run: Callable[..., Reply], certificate: tuple[Path, ssl.SSLContext]
) -> None:
    reply = run(ask_tls(certificate[1]))
    assert (reply.status, reply.fault, reply.sent) == (None, "connect", False)
    assert "SSL_CERT_FILE" in reply.detail
    assert "self-signed" in reply.detail.replace(" ", "-")


def test_ssl_cert_file_is_honoured(
    run: Callable[..., Reply], certificate: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    assert run(ask_tls(certificate[1])).status == 200
    # The certificate is trusted now, but it is not this host's.
    wrong = run(ask_tls(certificate[1], host="localhost"))
    assert (wrong.fault, wrong.sent) == ("connect", False)
    assert "localhost" in wrong.detail


def test_a_handshake_that_never_ends_is_not_sent() -> None:
    async def main() -> Reply:
        held: list[asyncio.StreamWriter] = []

        async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            held.append(writer)

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            async with Transport(Wire(url), concurrency=1, connect_timeout=0.2) as transport:
                return await transport.send(PATH, "m", ASKED)
        finally:
            for writer in held:
                writer.close()
            server.close()

    reply = asyncio.run(main())
    assert (reply.status, reply.fault, reply.sent) == (None, "connect", False)
    assert "0.2 s" in reply.detail


def test_a_proxy_that_refuses_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def main() -> Reply:
        server = await asyncio.start_server(refusing, "127.0.0.1", 0)
        monkeypatch.setenv(
            "https_proxy", f"http://me:pa55w0rd@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        )
        monkeypatch.setenv("no_proxy", "")
        wire = Wire("https://api.example.com/v1", {"Authorization": f"Bearer {KEY}"})
        try:
            async with Transport(wire, concurrency=1) as transport:
                return await transport.send(PATH, "m", ASKED)
        finally:
            server.close()

    reply = asyncio.run(main())
    assert (reply.status, reply.fault, reply.sent) == (None, "connect", False)
    assert "407" in reply.detail
    assert "HTTPS_PROXY" in reply.detail
    assert "pa55w0rd" not in reply.detail
    assert asked[0].startswith(b"CONNECT api.example.com:443 ")
    assert b"Proxy-Authorization: Basic " in asked[0]
    assert KEY.encode() not in asked[0]


def test_headers_go_out_as_given_and_cookies_never_come_back() -> None:
    requests: list[bytes] = []

    async def noting(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        requests.append(request)
        writer.write(whole(headers="Set-Cookie: __cf_bm=abc; path=/\r\nX-Odd: caf\xe9\r\n"))
        return True

    headers = {
        "Authorization": f"Bearer {KEY}",
        "User-Agent": "ua/1",
        "X-Team": "blue",
        "Accept-Encoding": "br",
    }

    async def main() -> list[Reply]:
        async with (
            serving(noting) as url,
            Transport(Wire(url, headers, {"api-version": "v 1"}), concurrency=1) as transport,
        ):
            return [await transport.send("/v1/embeddings", None, ASKED) for _ in range(2)]

    replies = asyncio.run(main())
    for request in requests:
        head, _, body = request.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert lines[0] == "POST /v1/embeddings?api-version=v+1 HTTP/1.1"
        sent = dict(line.lower().split(": ", 1) for line in lines[1:])
        assert len(sent) == len(lines) - 1
        assert sent["authorization"] == f"bearer {KEY}"
        assert (sent["user-agent"], sent["x-team"]) == ("ua/1", "blue")
        assert (sent["content-type"], sent["accept-encoding"]) == ("application/json", "gzip, deflate")
        assert sent["content-length"] == str(len(ASKED))
        assert "cookie" not in sent
        assert body == ASKED
    assert len(requests) == 2
    assert "set-cookie" not in replies[0].headers
    assert replies[0].headers["x-odd"].encode()


def test_a_large_request_body_arrives_whole() -> None:
    received: list[bytes] = []

    async def noting(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        received.append(request.partition(b"\r\n\r\n")[2])
        writer.write(whole())
        return False

    large = b"0123456789abcdef" * 2**18

    async def main() -> Reply:
        async with serving(noting) as url, Transport(Wire(url), concurrency=1) as transport:
            return await transport.send(PATH, "m", large)

    assert asyncio.run(main()).status == 200
    assert received == [large]


def test_cancelled_calls_leave_no_connection_behind(run: Callable[..., object]) -> None:
    connections: set[asyncio.StreamWriter] = set()
    ended = asyncio.Event()

    async def main() -> None:
        all_here, go = asyncio.Event(), asyncio.Event()

        async def waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
            connections.add(writer)
            if len(connections) == 200:
                all_here.set()
            if request.endswith(b"stay"):
                await go.wait()
                writer.write(whole())
                return True
            await reader.read(1)
            connections.discard(writer)
            if len(connections) == 100:
                ended.set()
            return False

        async with serving(waiting) as url, Transport(Wire(url), concurrency=200) as transport:
            calls = [
                asyncio.create_task(transport.send(PATH, "m", b"stay" if n % 2 else b"leave"))
                for n in range(200)
            ]
            await all_here.wait()
            for call in calls[::2]:
                call.cancel()
            await ended.wait()
            go.set()
            done = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(reply, asyncio.CancelledError) for reply in done[::2])
            assert [reply.status for reply in done[1::2]] == [200] * 100
            again = await asyncio.gather(*(transport.send(PATH, "m", b"stay") for _ in range(50)))
            assert [reply.status for reply in again] == [200] * 50
            assert len(connections) == 100

    run(main())


def test_what_cannot_be_sent_is_refused_before_anything_is() -> None:
    for headers in (
        {"X-A": "one\r\nX-B: two"},
        {"X-A": "zero\0"},
        {"X-A": "ключ"},
        {"X A": "1"},
        {"Content-Length": "5"},
        {"host": "other"},
    ):
        with pytest.raises(BadConfiguration) as caught:
            Wire("http://127.0.0.1/v1", headers)
        assert "ключ" not in str(caught.value)
        assert "X-B" not in str(caught.value)


@pytest.mark.parametrize(
    "path", ["", "chat", "/../admin", "/chat//x", "/chat?x=1", "http://other/v1", "/a\r\nb"]
)
def test_a_path_that_is_no_endpoint_is_a_mistake_of_the_caller(path: str) -> None:
    with pytest.raises(ValueError, match="path of an endpoint"):
        Wire("http://127.0.0.1/v1").url(path, "m")


def test_more_connections_than_the_system_allows_are_refused() -> None:
    async def main() -> None:
        async with Transport(Wire("http://127.0.0.1/v1"), concurrency=2**40):
            pass

    with pytest.raises(BadConfiguration, match="--concurrency"):
        asyncio.run(main())
