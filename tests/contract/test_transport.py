"""What a transport makes of an answer, whole or not: one contract for the lean one and the SDK's."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable

import pytest
from wire_server import BODY, Plane, ask, ask_all, chunked, reset, saying, whole

from runner.model import Reply

Run = Callable[..., Reply]


def test_a_whole_answer_comes_back_as_it_is(run: Run, plane: Plane) -> None:
    answer = whole(headers="X-Request-ID: req_7\r\nContent-Type:  application/json \t\r\n")
    reply = run(ask(plane, saying(answer)))
    assert (reply.status, reply.body, reply.fault, reply.sent) == (200, BODY, None, True)
    assert reply.request_id == "req_7"
    assert reply.headers["content-type"] == "application/json"
    assert 0 < reply.elapsed < 5


@pytest.mark.parametrize(
    "status", ["400 Bad", "401 Unauthorized", "408 Late", "409 Conflict", "429 Slow", "500 X"]
)
def test_what_the_sdk_would_repeat_is_asked_once(plane: Plane, status: str) -> None:
    body = b'{"error":{"message":"no","type":"t"}}'
    answers = [whole(body, status=status, headers="x-should-retry: true\r\nretry-after: 0\r\n"), whole()]
    replies = asyncio.run(ask_all(plane, saying(*answers, keep=True), 2))
    assert [(r.status, r.body) for r in replies] == [(int(status[:3]), body), (200, BODY)]


@pytest.mark.parametrize(
    "answer",
    [
        chunked(BODY[:100], BODY[100:]),
        b"HTTP/1.1 200 OK\r\n\r\n" + BODY,
        b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
        b"HTTP/1.1 200\r\nConnection: close\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\nContent-Length: %d\n\n%b" % (len(BODY), BODY),
        whole(headers="Connection: Upgrade\r\nUpgrade: h2,h2c\r\n"),
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Encoding: gzip\r\n\r\n" + whole(),
        b"HTTP/1.1 199 Odd\r\nContent-Length: 3\r\n\r\nabc" + chunked(BODY),
        chunked(BODY, last=False) + b"0 \r\nContent-Encoding: gzip\r\nX-Trailer: 1\r\n\r\n",
        whole(gzip.compress(BODY), headers="Content-Encoding: gzip\r\n"),
        whole(gzip.compress(BODY[:9]) + gzip.compress(BODY[9:]), headers="Content-Encoding: x-gzip\r\n"),
        whole(zlib.compress(BODY), headers="Content-Encoding: deflate\r\n"),
        whole(zlib.compress(BODY)[2:-4], headers="Content-Encoding: deflate\r\n"),
        chunked(gzip.compress(BODY)[:30], gzip.compress(BODY)[30:], headers="Content-Encoding: GZIP\r\n"),
    ],
    ids=[
        "chunked",
        "until-close",
        "http-1.0",
        "close",
        "bare-line-feeds",
        "upgrade-offered",
        "early-hints",
        "odd-1xx",
        "trailers",
        "gzip",
        "two-gzip-streams",
        "deflate",
        "raw-deflate",
        "gzip-chunked",
    ],
)
def test_every_framing_of_a_body_gives_the_same_bytes(run: Run, plane: Plane, answer: bytes) -> None:
    reply = run(ask(plane, saying(answer)))
    assert (reply.status, reply.body, reply.fault) == (200, BODY, None)
    assert not {"link", "x-trailer"} & reply.headers.keys()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5000000000\r\n\r\n",
    ],
)
def test_an_answer_that_has_no_body_is_whole_without_one(
    run: Callable[..., list[Reply]], answer: bytes
) -> None:
    from wire_server import lean

    empty, second = run(ask_all(lean, saying(answer, whole(), keep=True), 2))
    assert (empty.status, empty.body, empty.fault) == (int(answer[9:12]), b"", None)
    assert (second.status, second.body) == (200, BODY)


def test_an_answer_in_single_bytes_is_the_same_answer(run: Run) -> None:
    from wire_server import lean

    body = gzip.compress(BODY)
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" + chunked(
        body[:7], body[7:], headers="Content-Encoding: gzip\r\nX-A: b\r\n"
    )

    async def dripping(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> bool:
        for n in range(len(answer)):
            writer.write(answer[n : n + 1])
            await asyncio.sleep(0)
        return True

    reply = run(ask(lean, dripping))
    assert (reply.status, reply.body, reply.headers["x-a"]) == (200, BODY, "b")


def test_a_body_cut_at_any_byte_is_never_whole(run: Callable[..., list[Reply]], plane: Plane) -> None:
    full = whole(BODY * 2, headers="x-request-id: req_1\r\n")
    head = full.index(b"\r\n\r\n") + 4
    positions = iter(range(len(full)))

    async def cutting(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> bool:
        writer.write(full[: next(positions)])
        return False

    replies = run(ask_all(plane, cutting, len(full)))
    assert len(replies) == len(full) > 600
    for position, reply in enumerate(replies):
        assert (reply.status, reply.sent) == (None, True), position
        assert reply.fault == ("reset" if position < head else "cut"), position
        assert reply.body == full[head:position]
        if position >= head:
            assert reply.request_id == "req_1"
            assert "HTTP 200" in reply.detail


def test_a_chunked_body_cut_at_any_byte_is_never_whole(plane: Plane) -> None:
    full = chunked(BODY[:50], BODY[50:90])
    head = full.index(b"\r\n\r\n") + 4
    positions = iter(range(head, len(full)))

    async def cutting(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> bool:
        writer.write(full[: next(positions)])
        return False

    replies = asyncio.run(ask_all(plane, cutting, len(full) - head))
    assert {(r.status, r.fault, r.sent) for r in replies} == {(None, "cut", True)}


def test_a_packed_body_cut_at_any_byte_is_never_whole(plane: Plane) -> None:
    packed = gzip.compress(BODY)
    answers = [whole(packed[:n], headers="Content-Encoding: gzip\r\n") for n in range(1, len(packed))]
    replies = asyncio.run(ask_all(plane, saying(*answers, keep=True), len(answers)))
    assert {(r.status, r.fault) for r in replies} == {(None, "cut")}
    assert replies[-1].body == packed[:-1]


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\nrest", "protocol"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", "protocol"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc", "protocol"),
        (whole(b"this is no gzip", headers="Content-Encoding: gzip\r\n"), "cut"),
        (whole(BODY, headers="Content-Encoding: br\r\n"), "protocol"),
        (b"\x16\x03\x01 hello, wrong port\r\n\r\n", "protocol"),
        (b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n{}", "protocol"),
        (OK + b"Content-Length: soon\r\n\r\n{}", "protocol"),
        (OK + b"Content-Length: -2\r\n\r\n{}", "protocol"),
        (OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", "protocol"),
        (OK + b"Content-Length: 2\r\nContent-Length: 1\r\n\r\n{}", "protocol"),
        (OK + b"Content-Length: 2, 2\r\n\r\n{}", "protocol"),
        (OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "protocol"),
        (OK + b"Transfer-Encoding: gzip\r\n\r\n" + gzip.compress(b"{}"), "protocol"),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "protocol"),
        (OK + b"x-a: b\r\n" * 5000 + b"\r\n{}", "protocol"),
        (OK + b"x-a: " + b"b" * 200_000 + b"\r\n\r\n{}", "protocol"),
        (OK + b"x-a: " + b"b" * 2_000_000, "protocol"),
        (b"HTTP/1.1 200 " + b"b" * 2_000_000, "protocol"),
        (b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n{}", "protocol"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 50, "reset"),
        (b"", "reset"),
    ],
    ids=[
        "bad-chunk",
        "negative-chunk",
        "huge-chunk",
        "no-gzip",
        "br",
        "no-http",
        "http-2",
        "bad-length",
        "negative-length",
        "length-twice",
        "two-lengths",
        "length-list",
        "length-and-chunked",
        "gzip-coding",
        "gzip-chunked-coding",
        "many-headers",
        "long-header",
        "endless-header",
        "endless-status",
        "switching",
        "only-100",
        "nothing",
    ],
)
def test_an_answer_against_the_rules_is_a_fault_after_sending(
    run: Run, plane: Plane, answer: bytes, fault: str
) -> None:
    reply = run(ask(plane, saying(answer)))
    assert (reply.status, reply.fault, reply.sent) == (None, fault, True)
    assert "127.0.0.1" in reply.detail


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nConte", whole()[:-20]])
def test_a_reset_is_a_fault_after_sending(run: Run, plane: Plane, said: bytes) -> None:
    async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: bytes) -> bool:
        writer.write(said)
        await writer.drain()
        reset(writer)
        return False

    reply = run(ask(plane, resetting))
    assert (reply.status, reply.sent) == (None, True)
    assert reply.fault in ("reset", "cut")


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
def test_the_deadline_ends_silence_and_slow_drips(run: Run, plane: Plane, before: bytes, drip: bytes) -> None:
    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: bytes) -> bool:
        writer.write(before)
        # Reading from a client that has said all it will say: a pause that ends with the connection.
        while not reader.at_eof():
            try:
                await asyncio.wait_for(reader.read(1), 0.02)
            except TimeoutError:
                writer.write(drip)
        return False

    reply = run(ask(plane, dripping, deadline=0.3))
    assert (reply.status, reply.fault, reply.sent) == (None, "timeout", True)
    assert 0.25 < reply.elapsed < 1.3
    assert ("HTTP 200" in reply.detail) == before.startswith(b"HTTP/1.1 200 OK\r\nContent-Length")
    assert "0.3 s" in reply.detail


def test_a_body_beyond_the_limit_is_not_read_to_its_end(run: Run, plane: Plane) -> None:
    written = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> bool:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            await writer.drain()
            written += 0x10000

    reply = run(ask(plane, endless, max_body=100_000))
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
def test_what_would_grow_beyond_the_limit_is_refused(plane: Plane, answer: bytes) -> None:
    reply = asyncio.run(ask(plane, saying(answer), max_body=100_000))
    assert (reply.status, reply.fault) == (None, "too_large")


def test_a_body_of_exactly_the_limit_is_whole(plane: Plane) -> None:
    for answer in (whole(), chunked(BODY), whole(gzip.compress(BODY), headers="Content-Encoding: gzip\r\n")):
        reply = asyncio.run(ask(plane, saying(answer), max_body=len(BODY)))
        assert (reply.status, reply.body) == (200, BODY)
