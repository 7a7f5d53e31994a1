"""Connections: kept and used again while they are good, never when they are not, never more than needed."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from wire_server import (
    ASKED,
    BODY,
    PATH,
    Plane,
    ask_all,
    chunked,
    lean,
    listening,
    saying,
    serving,
    turn,
    whole,
)

from runner.api.connection import Connection
from runner.api.dialing import Names
from runner.api.pool import Pool
from runner.api.transport import Transport, affordable
from runner.api.wire import Wire
from runner.errors import BadConfiguration
from runner.model import Reply

Run = Callable[..., list[Reply]]


def test_a_connection_is_kept_and_used_again(run: Run, plane: Plane) -> None:
    ports: set[int] = set()

    async def keeping(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> bool:
        ports.add(writer.get_extra_info("peername")[1])
        writer.write(whole() if len(ports) % 2 else chunked(BODY))
        return True

    assert [reply.status for reply in run(ask_all(plane, keeping, 10))] == [200] * 10
    assert len(ports) == 1


@pytest.mark.parametrize(
    "answer",
    [
        whole(headers="Connection: close\r\n"),
        b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY),
    ],
)
def test_a_connection_that_the_server_will_close_is_not_used_again(run: Run, answer: bytes) -> None:
    ports: list[int] = []

    async def keeping(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> bool:
        ports.append(writer.get_extra_info("peername")[1])
        writer.write(answer)
        return True

    assert [reply.status for reply in run(ask_all(lean, keeping, 3))] == [200] * 3
    assert len(set(ports)) == 3


def test_a_connection_that_the_server_closed_between_calls_is_not_used_again(run: Run, plane: Plane) -> None:
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
        async with serving(closing) as url, plane(url) as transport:
            for _ in range(20):
                closed.clear()
                replies.append(await transport.send(PATH, "m", ASKED))
                await closed.wait()
                # The end of the connection is in our socket by now; one turn of the loop reads it.
                await turn()
        return replies

    assert [r.status for r in run(main())] == [200] * 20
    assert len(connections) == 20


@pytest.mark.parametrize("more", [whole(b'{"stolen": true}'), b"H", b"\0", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_what_follows_a_whole_answer_is_never_taken_for_the_next_one(
    run: Run, plane: Plane, more: bytes
) -> None:
    answers = [whole() + more, whole(b'{"own": 2}'), chunked(b'{"own": 3}') + more, whole(b'{"own": 4}')]
    said = saying(*answers, keep=True)
    ports: list[int] = []

    async def noting(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> bool | None:
        ports.append(writer.get_extra_info("peername")[1])
        return await said(reader, writer, request)

    replies = run(ask_all(plane, noting, 4))
    assert [r.body for r in replies] == [BODY, b'{"own": 2}', b'{"own": 3}', b'{"own": 4}']
    assert {r.status for r in replies} == {200}
    # The connection is not used again, for what else may still be on its way over it?
    assert ports[0] != ports[1] == ports[2] != ports[3]


def test_an_answer_that_comes_too_late_is_not_the_next_call_s(run: Run, plane: Plane) -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        if request.endswith(b"1"):
            await reader.read(1)
        writer.write(whole(b"answer to " + request[-1:]))
        return True

    async def main() -> list[Reply]:
        async with serving(late) as url, plane(url, deadline=0.2) as transport:
            return [await transport.send(PATH, "m", b"%d" % n) for n in (1, 2)]

    first, second = run(main())
    assert (first.status, first.fault) == (None, "timeout")
    assert second.body == b"answer to 2"


def test_a_trailer_is_not_a_header_of_the_next_answer(run: Run) -> None:
    trailed = chunked(BODY, last=False) + b"0\r\nX-Request-ID: other\r\n\r\n"
    replies = run(ask_all(lean, saying(trailed, whole(), keep=True), 2))
    assert [reply.request_id for reply in replies] == [None, None]


def test_what_arrives_between_two_answers_is_never_taken_for_the_second(run: Run, plane: Plane) -> None:
    writers: list[asyncio.StreamWriter] = []

    async def keeping(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        writers.append(writer)
        writer.write(whole(b"answer to " + request[-1:]))
        return True

    async def main() -> list[Reply]:
        async with serving(keeping) as url, plane(url) as transport:
            first = await transport.send(PATH, "m", b"1")
            writers[0].write(whole(b"stolen"))
            await writers[0].drain()
            await turn()
            return [first, *[await transport.send(PATH, "m", b"%d" % n) for n in (2, 3)]]

    assert [reply.body for reply in run(main())] == [b"answer to 1", b"answer to 2", b"answer to 3"]
    assert len(set(writers)) == 2


def test_cancelled_calls_leave_no_connection_behind(run: Run, plane: Plane) -> None:
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

        async with serving(waiting) as url, plane(url, concurrency=200) as transport:
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


def test_a_call_without_a_task_is_told_once_and_after_a_cancellation_never(run: Run) -> None:
    async def main() -> None:
        told: list[Reply | BaseException] = []
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def waiting(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
            if request.endswith(b"slow"):
                arrived.set()
                await go_on.wait()
            writer.write(whole())
            return True

        async with serving(waiting) as url, lean(url) as transport:
            for _ in range(2):  # over a new connection, and over the same again
                came = asyncio.Event()
                transport.start(PATH, "m", ASKED, lambda reply, came=came: (told.append(reply), came.set()))  # type: ignore[misc]
                assert not came.is_set()
                await came.wait()
            assert [reply.status for reply in told if isinstance(reply, Reply)] == [200, 200]
            given_up = transport.start(PATH, "m", b"slow", told.append)
            await arrived.wait()
            given_up.cancel()
            given_up.cancel()
            go_on.set()
            assert (await transport.send(PATH, "m", ASKED)).status == 200
            assert len(told) == 2
            assert transport._deadlines._due == {}
            with pytest.raises(ValueError, match="not the path"):
                transport.start("nowhere", "m", ASKED, told.append)

    run(main())


def test_a_call_whose_time_is_over_before_it_has_a_connection_was_not_sent(run: Run) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main() -> None:
        async with (
            listening(silent) as port,
            lean(f"https://127.0.0.1:{port}/v1", deadline=0.1) as transport,
        ):
            replies = await asyncio.gather(*(transport.send(PATH, "m", ASKED) for _ in range(3)))
            assert [(reply.status, reply.fault, reply.sent) for reply in replies] == [
                (None, "connect", False)
            ] * 3

    run(main())


def test_a_call_cancelled_on_its_way_to_a_connection_leaves_nothing(run: Run) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main() -> None:
        # A server that never shakes hands: the calls hang in TLS.
        async with listening(silent) as port, lean(f"https://127.0.0.1:{port}/v1") as transport:
            calls = [asyncio.create_task(transport.send(PATH, "m", ASKED)) for _ in range(20)]
            await turn()
            for call in calls:
                call.cancel()
            done = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(reply) for reply in done} == {asyncio.CancelledError}

    run(main())


def test_open_connections_are_closed_at_the_end(run: Run, certificate: tuple[Path, ssl.SSLContext]) -> None:
    async def main(tls: ssl.SSLContext | None) -> None:
        arrived = asyncio.Event()

        async def hanging(reader: asyncio.StreamReader, _: asyncio.StreamWriter, request: bytes) -> bool:
            arrived.set()
            return not await reader.read()

        async with serving(hanging, tls) as url:
            async with lean(url, concurrency=2) as transport:
                call = asyncio.create_task(transport.send(PATH, "m", ASKED))
                await arrived.wait()
                assert len(transport._pool.live) == 1
            assert not transport._pool.live
            reply = await call
            assert (reply.status, reply.fault, reply.sent) == (None, "reset", True)

    run(main(None))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SSL_CERT_FILE", str(certificate[0]))
        run(main(certificate[1]))


class Wireless(asyncio.Transport):
    """A transport that only remembers whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


def test_the_connection_used_last_is_used_first_and_the_rest_goes_after_four_seconds() -> None:
    async def main() -> None:
        now = 100.0
        pool = Pool(lambda: now)
        old, young = (Connection(1, {}, pool.live) for _ in range(2))
        for connection in (old, young):
            connection.connection_made(Wireless())
        pool.put(old, 100.0)
        pool.put(young, 101.0)
        assert pool.take(101.0) is young
        pool.put(young, 103.5)
        now = 104.2
        pool._sweep()
        assert (old.usable, young.usable) == (False, True)
        assert pool.take(107.6) is None
        assert not young.usable
        for connection in (old, young):
            connection.connection_lost(None)
        await pool.close()

    asyncio.run(main())


def test_a_name_is_looked_up_once_for_all_and_an_old_answer_serves_where_a_new_one_fails() -> None:
    asked: list[str] = []
    answers: list[object] = [
        [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{n}", 80)) for n in (1, 2)],
        socket.gaierror(socket.EAI_AGAIN, "try again"),
    ]
    now = 0.0

    async def main() -> None:
        nonlocal now

        async def look_up(host: str, *_: object, **__: object) -> object:
            asked.append(host)
            await asyncio.sleep(0)
            answer = answers[0] if len(asked) % 2 else answers[1]
            if isinstance(answer, Exception):
                raise answer
            return answer

        asyncio.get_running_loop().getaddrinfo = look_up  # type: ignore[method-assign]
        names = Names("api.example.com", 80, lambda: now)
        hasty = asyncio.create_task(names.addresses())
        waiting = [asyncio.create_task(names.addresses()) for _ in range(10)]
        await asyncio.sleep(0)
        hasty.cancel()
        found = await asyncio.gather(*waiting)
        assert asked == ["api.example.com"]
        # Several servers behind one name share the load.
        assert [addresses[0][4][0] for addresses in found[:3]] == ["192.0.2.2", "192.0.2.1", "192.0.2.2"]
        now = 60.0
        assert len(await names.addresses()) == 2
        assert len(asked) == 2
        fresh = Names("other.example.com", 80, lambda: now)
        asked.append("")
        with pytest.raises(socket.gaierror):
            await fresh.addresses()
        await names.close()

    asyncio.run(main())


class Crowd(asyncio.Protocol):
    """A server's side of a connection; nobody is answered before all have asked."""

    def __init__(self, waiting: list[asyncio.Transport], count: int) -> None:
        self._waiting = waiting
        self._count = count

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert data.endswith(ASKED)
        self._waiting.append(self._transport)
        if len(self._waiting) == self._count:
            for transport in self._waiting:
                transport.write(whole(b"{}"))
            self._waiting.clear()


def test_five_thousand_calls_are_in_flight_at_once(run: Run) -> None:
    count = 5_000
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2 * count + 200:
        pytest.skip(f"client and server need {2 * count + 200} open files, this machine allows {limits[1]}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * count + 200, limits[1]))

    async def main() -> tuple[int, list[Reply]]:
        loop = asyncio.get_running_loop()
        made: list[Crowd] = []
        waiting: list[asyncio.Transport] = []

        def arrived() -> Crowd:
            made.append(Crowd(waiting, count))
            return made[-1]

        server = await loop.create_server(arrived, "127.0.0.1", 0, backlog=1024)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        replies: list[Reply] = []
        async with lean(url, concurrency=count, connect_timeout=30) as transport:
            for _ in range(2):
                replies += await asyncio.gather(*(transport.send(PATH, "m", ASKED) for _ in range(count)))
        server.close()
        return len(made), replies

    try:
        made, replies = run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert {(reply.status, reply.fault) for reply in replies} == {(200, None)}
    assert (made, len(replies)) == (count, 2 * count)


FEW_FILES = """
    import asyncio, resource, sys, uvloop
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 64))
    from runner.api.transport import Transport, affordable
    from runner.api.wire import Wire

    async def main(url, runner_says):
        count = affordable(1000)
        assert count == 24, count
        async with Transport(Wire(url), concurrency=count) as transport:
            # The second time, more at once than there are files for: they wait for each other.
            for at_once in (count, 90):
                places = asyncio.Semaphore(at_once)
                async def one(n):
                    async with places:
                        return await transport.send("/chat/completions", "m", b"%d" % n)
                replies = await asyncio.gather(*(one(n) for n in range(200)))
                assert {(r.status, r.detail) for r in replies} == {(200, "")}, replies
                assert [r.body for r in replies] == [b"%d" % n for n in range(200)]

    for run in (asyncio.run, uvloop.run):
        run(main(sys.argv[1], run))
    print("all answered")
"""


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_few_open_files_lower_the_concurrency_instead_of_failing_calls(
    scheme: str, certificate: tuple[Path, ssl.SSLContext]
) -> None:
    most, here = 0, 0

    async def echoing(_: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
        nonlocal most, here
        here += 1
        most = max(most, here)
        await asyncio.sleep(0.01)
        writer.write(whole(request.partition(b"\r\n\r\n")[2]))
        here -= 1
        return True

    async def main() -> tuple[int | None, bytes, bytes]:
        tls = scheme == "https"
        async with serving(echoing, certificate[1] if tls else None) as url:
            # A name needs files to be looked up, certificates need one to be read.
            named = url if tls else url.replace("127.0.0.1", "localhost")
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", "-c", textwrap.dedent(FEW_FILES), named),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={"SSL_CERT_FILE": str(certificate[0]), "PATH": ""},
            )
            out, err = await process.communicate()
            return process.returncode, out, err

    code, out, err = asyncio.run(main())
    assert (code, out, err.decode()) == (0, b"all answered\n", "")
    assert 10 < most <= 64


def test_more_connections_than_the_system_allows_are_refused(plane: Plane) -> None:
    async def main() -> None:
        async with plane("http://127.0.0.1/v1", concurrency=2**40):
            pass

    with pytest.raises(BadConfiguration, match="--concurrency"):
        asyncio.run(main())
    assert (
        affordable(2**40) < 2**40 or resource.getrlimit(resource.RLIMIT_NOFILE)[1] == resource.RLIM_INFINITY
    )


def test_a_call_that_is_over_leaves_nothing_to_end(run: Run) -> None:
    async def main() -> list[Reply]:
        async with serving(saying(whole(), keep=True)) as url, lean(url) as transport:
            replies = [await transport.send(PATH, "m", ASKED) for _ in range(3)]
            assert transport._deadlines._due == {}
            return replies

    assert [reply.status for reply in run(main())] == [200] * 3


def test_the_deadline_holds_for_each_of_many_calls(run: Run) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter, __: bytes) -> bool:
        return not await reader.read()

    async def main() -> list[Reply]:
        async with serving(silent) as url, Transport(Wire(url), concurrency=50, deadline=1.0) as transport:
            first = [asyncio.create_task(transport.send(PATH, "m", ASKED)) for _ in range(25)]
            started = time.monotonic()
            await asyncio.wait(first, timeout=0.5)
            assert time.monotonic() - started < 0.95
            second = [transport.send(PATH, "m", ASKED) for _ in range(25)]
            return await asyncio.gather(*first, *second)

    replies = run(main())
    assert {reply.fault for reply in replies} == {"timeout"}
    assert all(0.95 < reply.elapsed < 3 for reply in replies)
