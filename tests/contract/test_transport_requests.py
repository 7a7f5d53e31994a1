"""What leaves: each send is exactly one request, with the bytes it was given, to where it was meant to go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
from wire_server import (
    ASKED,
    BODY,
    KEY,
    PATH,
    Plane,
    ask_all,
    lean,
    listening,
    reset,
    saying,
    sdk,
    serving,
    whole,
)

from runner.api.transport import Transport
from runner.api.wire import Wire
from runner.errors import BadConfiguration
from runner.model import Reply

Run = Callable[..., Reply]
LARGE = b"0123456789abcdef" * (50 * 2**16)


def test_headers_go_out_as_given_and_cookies_never_come_back() -> None:
    requests: list[bytes] = []

    async def noting(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        requests.append(request)
        writer.write(whole(headers="Set-Cookie: __cf_bm=abc; path=/\r\nX-Odd: caf\xe9\r\n"))
        return True

    headers = {
        "Authorization": f"Bearer {KEY}",
        "User-Agent": "ua/1",
        "X-Team": "blé",
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
        lines = head.decode("latin-1").split("\r\n")
        assert lines[0] == "POST /v1/embeddings?api-version=v+1 HTTP/1.1"
        sent = dict(line.lower().split(": ", 1) for line in lines[1:])
        assert len(sent) == len(lines) - 1
        assert sent["host"].startswith("127.0.0.1:")
        assert sent["authorization"] == f"bearer {KEY}"
        assert (sent["user-agent"], sent["x-team"]) == ("ua/1", "blé")
        assert (sent["content-type"], sent["accept-encoding"]) == ("application/json", "gzip, deflate")
        assert sent["content-length"] == str(len(ASKED))
        assert "cookie" not in sent
        assert body == ASKED
    assert len(requests) == 2
    assert "set-cookie" not in replies[0].headers
    assert replies[0].headers["x-odd"].encode()


def test_a_list_is_fetched_by_one_get_without_a_body(run: Run, plane: Plane) -> None:
    requests: list[bytes] = []

    async def noting(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        requests.append(request)
        writer.write(whole(b'{"data":[]}'))
        return True

    async def main() -> Reply:
        async with serving(noting) as url, plane(url) as transport:
            return await transport.fetch("/models")

    reply = run(main())
    assert (reply.status, reply.body) == (200, b'{"data":[]}')
    [request] = requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith((b"GET /v1/models HTTP/1.1\r\n", b"GET /models HTTP/1.1\r\n"))
    assert body == b""


def test_a_path_with_other_letters_than_ascii_is_encoded() -> None:
    requests: list[bytes] = []

    async def noting(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        requests.append(request)
        writer.write(whole())
        return True

    async def main() -> None:
        async with serving(noting) as url, lean(f"{url}/modèle%2F1/") as transport:
            await transport.send(PATH, "m", ASKED)

    asyncio.run(main())
    assert requests[0].startswith(b"POST /v1/mod%C3%A8le%2F1/chat/completions HTTP/1.1\r\n")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_the_answer_and_the_key_goes_nowhere_else(plane: Plane, status: str) -> None:
    seen: list[bytes] = []

    async def elsewhere(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        seen.append(request)
        writer.write(whole())
        return False

    async def main() -> Reply:
        async with serving(elsewhere) as other:
            answer = saying(whole(b"", status=status, headers=f"Location: {other}/chat/completions\r\n"))
            async with serving(answer) as url, plane(url, {"Authorization": f"Bearer {KEY}"}) as transport:
                return await transport.send(PATH, "m", ASKED)

    reply = asyncio.run(main())
    assert reply.status == int(status[:3])
    assert seen == []


def test_each_send_is_exactly_one_request_even_where_the_server_drops_it(run: Run, plane: Plane) -> None:
    requests: list[bytes] = []

    async def dropping(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        requests.append(request)
        if len(requests) == 1:
            writer.write(whole())
            return True
        reset(writer)
        return False

    first, second, third = run(ask_all(plane, dropping, 3))
    assert first.status == 200
    assert {(r.status, r.fault, r.sent) for r in (second, third)} == {(None, "reset", True)}
    assert len(requests) == 3


def test_a_large_request_body_arrives_whole(run: Run, plane: Plane) -> None:
    received: list[bytes] = []

    async def noting(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        received.append(request.partition(b"\r\n\r\n")[2])
        writer.write(whole())
        return True

    async def main() -> list[Reply]:
        async with serving(noting) as url, plane(url) as transport:
            return [await transport.send(PATH, "m", body) for body in (LARGE, ASKED, LARGE)]

    assert [reply.status for reply in run(main())] == [200] * 3
    assert received == [LARGE, ASKED, LARGE]


@pytest.mark.parametrize("closing", [True, False], ids=["closes", "keeps"])
def test_an_answer_before_the_whole_request_is_the_answer(run: Run, plane: Plane, closing: bool) -> None:
    connections: list[asyncio.StreamWriter] = []
    told = asyncio.Event()

    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(whole(b"too much", status="413 Content Too Large"))
        await writer.drain()
        if not closing:
            await told.wait()

    async def main() -> list[Reply]:
        async with listening(refusing) as port, plane(f"http://127.0.0.1:{port}/v1") as transport:
            replies = [await transport.send(PATH, "m", LARGE) for _ in range(2)]
            told.set()
            return replies

    assert [(reply.status, reply.body) for reply in run(main())] == [(413, b"too much")] * 2
    # What is left of a request would be read as the next one.
    assert len(connections) == 2


def test_a_server_that_ends_in_the_middle_of_a_large_request_is_known_at_once(run: Run, plane: Plane) -> None:
    async def main() -> Reply:
        async def leaving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            reset(writer)

        async with listening(leaving) as port, plane(f"http://127.0.0.1:{port}/v1", deadline=20) as transport:
            return await transport.send(PATH, "m", LARGE)

    reply = run(main())
    assert (reply.status, reply.fault, reply.sent) == (None, "reset", True)
    assert reply.elapsed < 10


def test_a_refused_port_is_not_sent(run: Run, plane: Plane) -> None:
    async def main() -> Reply:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            async with plane(f"http://127.0.0.1:{taken.getsockname()[1]}/v1") as transport:
                return await transport.send(PATH, "m", ASKED)

    reply = run(main())
    assert (reply.status, reply.fault, reply.sent) == (None, "connect", False)
    assert "127.0.0.1" in reply.detail
    assert "Connection refused" in reply.detail


def test_an_unknown_name_is_not_sent(run: Run, plane: Plane) -> None:
    async def main() -> Reply:
        async with plane("http://nowhere.invalid/v1") as transport:
            return await transport.send(PATH, "m", ASKED)

    reply = run(main())
    assert (reply.status, reply.fault, reply.sent) == (None, "connect", False)
    assert "nowhere.invalid: the name cannot be resolved" in reply.detail


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
def test_a_path_that_is_no_endpoint_is_a_mistake_of_the_caller(plane: Plane, path: str) -> None:
    async def main() -> None:
        async with plane("http://127.0.0.1/v1") as transport:
            await transport.send(path, "m", ASKED)

    with pytest.raises(ValueError, match="path of an endpoint"):
        asyncio.run(main())


def test_both_transports_send_the_same_bytes_with_a_fresh_credential_for_each_call() -> None:
    requests: list[bytes] = []
    body = b'{ "model":"m",\n "n": 1e-1, "n": 2, "s": "\\u00e9" }'

    async def noting(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        requests.append(request)
        writer.write(whole(headers="Set-Cookie: a=b\r\n"))
        return True

    async def main() -> list[Reply]:
        async with serving(noting) as url:
            replies = []
            for plane in (lean, sdk):
                async with plane(url, {"X-Team": "blue"}) as transport:
                    replies += [await transport.send(PATH, "m", body) for _ in range(2)]
            return replies

    replies = asyncio.run(main())
    assert {(r.status, r.body, tuple(r.headers)) for r in replies} == {(200, BODY, ("content-length",))}
    assert [request.partition(b"\r\n\r\n")[2] for request in requests] == [body] * 4
    heads = [request.partition(b"\r\n\r\n")[0].split(b"\r\n") for request in requests]
    assert {lines[0] for lines in heads} == {b"POST /v1/chat/completions HTTP/1.1"}
    for lines in heads[2:]:
        sent = {line.partition(b":")[0].lower(): line.partition(b": ")[2] for line in lines[1:]}
        assert len(sent) == len(lines) - 1
        assert sent[b"authorization"] == f"Bearer {KEY}".encode()
        assert (sent[b"x-team"], sent[b"content-type"]) == (b"blue", b"application/json")
        assert (sent[b"accept-encoding"], sent[b"content-length"]) == (b"gzip, deflate", b"%d" % len(body))
        assert b"cookie" not in sent


def test_many_calls_at_once_get_each_its_own_answer(run: Run, plane: Plane) -> None:
    async def echoing(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        body = request.partition(b"\r\n\r\n")[2]
        await asyncio.sleep(0)
        writer.write(whole(body))
        return not body.endswith(b"7")

    async def main() -> list[Reply]:
        async with serving(echoing) as url, plane(url, concurrency=50) as transport:
            places = asyncio.Semaphore(50)

            async def one(n: int) -> Reply:
                async with places:
                    return await transport.send(PATH, "m", b"%d" % n)

            return await asyncio.gather(*(one(n) for n in range(300)))

    assert [reply.body for reply in run(main())] == [b"%d" % n for n in range(300)]


def test_a_send_that_fails_leaves_the_transport_good(run: Run, plane: Plane) -> None:
    replies = run(ask_all(plane, saying(b"nonsense\r\n\r\n", whole(), keep=True), 2))
    assert [(reply.status, reply.fault) for reply in replies] == [(None, "protocol"), (200, None)]


def test_nothing_is_sent_where_the_server_speaks_first(run: Run) -> None:
    heard: list[bytes] = []

    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        heard.append(await reader.read())

    async def main() -> Reply:
        async with listening(banner) as port, lean(f"http://127.0.0.1:{port}/v1") as transport:
            return await transport.send(PATH, "m", ASKED)

    reply = run(main())
    assert reply.status is None
    assert reply.sent == (reply.fault != "connect")
    assert reply.fault in ("connect", "protocol")
