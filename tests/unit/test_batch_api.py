"""The Batch API as BatchApi tells it: each operation over real sockets, and what becomes of it under its faults."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import json
import math
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import faultserver as does
import pytest
from faultserver import Arrival, Behaviour, FaultServer

from runner.api.account import Account
from runner.api.batch_reading import batch_of, read_batch, read_page
from runner.api.batches import BatchApi
from runner.api.exchange import exchange
from runner.model import Usage
from runner.provider import AZURE, OPENAI, Provider
from runner.remote import (
    Created,
    Deleted,
    Failure,
    FileSeen,
    FilesSeen,
    Page,
    Refused,
    RemoteBatch,
    Unclear,
    Why,
)

KEY = "canary/5b20aa1e7c"
CHAT = "/v1/chat/completions"
NAME = "runner_abc_1_0123.jsonl"
METADATA = {"tool": "runner", "shard": "abc", "attempt": "1"}
Got = dict[str, Any]


class Pauses(list[float]):
    """Pauses that take no time, and are noted."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def connected(
    url: str, provider: Provider = OPENAI, *, key: str = KEY, patience: float = 5.0
) -> AsyncIterator[BatchApi]:
    pauses = Pauses()
    async with BatchApi(
        Account("openai", url, api_key=key), provider, patience=patience, sleep=pauses
    ) as api:
        yield api


def asked(
    server: FaultServer,
    question: Callable[[BatchApi], Awaitable[Any]],
    provider: Provider = OPENAI,
    *,
    patience: float = 5.0,
) -> Any:
    async def run() -> Any:
        async with connected(server.url, provider, patience=patience) as api:
            return await question(api)

    return asyncio.run(run())


def lines(rows: int) -> bytes:
    return b"".join(
        json.dumps(
            {
                "custom_id": f"r{row}",
                "method": "POST",
                "url": CHAT,
                "body": {"model": "gpt-6-luna", "messages": [{"role": "user", "content": f"row={row} say"}]},
            }
        ).encode()
        + b"\n"
        for row in range(rows)
    )


SHARD = lines(30)
SIZE = len(SHARD)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "shard"
    path.write_bytes(SHARD)
    return path


def on(operation: str, *fates: Behaviour) -> Callable[[Arrival], Behaviour]:
    """A script: the first requests of an operation meet these fates, the last one all that follow."""
    left = list(fates)

    def script(arrival: Arrival) -> Behaviour:
        if arrival.operation is None or arrival.operation.name != operation:
            return does.ok()
        return left.pop(0) if len(left) > 1 else left[0]

    return script


def count(server: FaultServer, operation: str) -> int:
    return sum(
        one.operation is not None and one.operation.name == operation for one in server.ledger.arrivals
    )


async def ended(api: BatchApi, batch_id: str) -> RemoteBatch:
    async with asyncio.timeout(10):
        while True:
            seen = await api.retrieve(batch_id)
            if isinstance(seen, RemoteBatch) and seen.has_ended:
                return seen


async def submitted(api: BatchApi, shard: Path) -> tuple[FileSeen, RemoteBatch]:
    file = await api.upload(shard, NAME)
    assert isinstance(file, FileSeen)
    made = await api.create(file.id, CHAT, METADATA)
    assert isinstance(made, Created)
    return file, await ended(api, made.batch_id)


# --- in health


async def everything(api: BatchApi, shard: Path) -> Got:
    got: Got = {}
    got["file"], got["batch"] = await submitted(api, shard)
    file, batch = got["file"], got["batch"]
    got["found"] = await api.find_files(NAME, SIZE)
    got["page"] = await api.list_page(None)
    got["next"] = await api.list_page(batch.id)
    got["downloaded"] = await api.download(batch.output_file_id, shard.with_name("out"))
    got["cancelled"] = await api.cancel(batch.id)
    got["files"] = [one async for one in api.files()]
    got["batches"] = [one async for one in api.batches()]
    got["deleted"] = [await api.delete_file(file.id), await api.delete_file(file.id)]
    got["missing"] = await api.find_files(NAME, SIZE)
    return got


def test_a_batch_from_end_to_end(shard: Path) -> None:
    with FaultServer(batch_time=0.05) as server:
        got = asked(server, lambda api: everything(api, shard))
        (upload,) = server.ledger.noted("uploaded")
        (create,) = server.ledger.creates()
    file, batch = got["file"], got["batch"]
    assert (file.name, file.size, file.purpose) == (NAME, SIZE, "batch")
    sha = hashlib.sha256(SHARD).hexdigest()
    assert (upload["sha"], upload["filename"], upload["purpose"]) == (sha, NAME, "batch")
    assert (create["endpoint"], create["metadata"]) == (CHAT, METADATA)
    assert got["found"] == FilesSeen((file._replace(sha256=sha),))
    (listed,) = got["page"].batches
    assert listed[2:] == (False, file.id, "abc", 1)
    assert got["page"].has_more is False
    assert got["next"] == Page((), False)
    assert (batch.status, batch.total, batch.completed, batch.failed) == ("completed", 30, 30, 0)
    assert (batch.error_file_id, batch.failures, batch.metadata) == (None, (), METADATA)
    assert isinstance(batch.usage, Usage)
    assert batch.usage.total == batch.usage.input + batch.usage.output > 0
    out = shard.with_name("out")
    assert got["downloaded"].sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert got["downloaded"].size == out.stat().st_size
    assert out.stat().st_mode & 0o777 == 0o600
    assert out.read_bytes().count(b"\n") == 30
    assert got["cancelled"] == batch, "one that has ended is given back as it is"
    assert {one.id for one in got["files"]} == {file.id, batch.output_file_id}
    assert got["batches"] == [batch]
    assert got["deleted"] == [Deleted(), Deleted()]
    assert got["missing"] == FilesSeen(())
    assert sorted(path.name for path in shard.parent.iterdir()) == ["out", "shard"]


def test_lists_are_read_page_by_page_to_their_end(shard: Path) -> None:
    async def many(api: BatchApi) -> tuple[list[str], list[Page], list[Any]]:
        file = await api.upload(shard, NAME)
        assert isinstance(file, FileSeen)
        made = [await api.create(file.id, CHAT, METADATA) for _ in range(103)]
        first = await api.list_page(None)
        assert isinstance(first, Page)
        second = await api.list_page(first.batches[-1].id)
        assert isinstance(second, Page)
        ids = [one.batch_id for one in made if isinstance(one, Created)]
        return ids, [first, second], [one async for one in api.batches()]

    with FaultServer(batch_time=60.0) as server:
        made, pages, every = asked(server, many)
    assert [len(page.batches) for page in pages] == [100, 3]
    assert [page.has_more for page in pages] == [True, False]
    listed = [one.id for page in pages for one in page.batches]
    assert listed == [one.id for one in every] == made[::-1]


def test_a_list_that_pages_by_no_cursor_has_an_end() -> None:
    batch = {"id": "batch_1", "status": "completed", "created_at": 5}
    body = json.dumps({"data": [batch], "has_more": True}).encode()
    page = does.answer(200, body=body, executed=False)
    with FaultServer(on("batches.list", page)) as server:

        async def both(api: BatchApi) -> tuple[Any, Any, list[Any]]:
            return (
                await api.list_page(None),
                await api.list_page("batch_1"),
                [one async for one in api.batches()],
            )

        first, second, every = asked(server, both)
    assert (first.has_more, second.has_more) == (True, False)
    assert [one.id for one in every] == ["batch_1"]


# --- POSTs go out once, and what is not clear is said to be so


@pytest.mark.parametrize("name", ["create-lost-executed", "create-lost", "create-late:0.2"])
def test_a_create_whose_answer_is_lost_is_unclear_and_asked_once(shard: Path, name: str) -> None:
    async def make(api: BatchApi) -> Any:
        file = await api.upload(shard, NAME)
        assert isinstance(file, FileSeen)
        return await api.create(file.id, CHAT, METADATA)

    with FaultServer(batches=name) as server:
        got = asked(server, make)
        if name == "create-late:0.2":
            server.ledger.wait_until(lambda ledger: bool(ledger.creates()))
        assert isinstance(got, Unclear)
        assert count(server, "batches.create") == 1
        assert len(server.ledger.creates()) == (0 if name == "create-lost" else 1)


@pytest.mark.parametrize(("name", "kept"), [("upload-reset", 1), ("upload-lost", 0)])
def test_an_upload_answered_by_a_reset_is_found_again_by_name_and_bytes(
    shard: Path, name: str, kept: int
) -> None:
    async def seek(api: BatchApi) -> tuple[Any, Any]:
        return await api.upload(shard, NAME), await api.find_files(NAME, SIZE)

    with FaultServer(batches=name) as server:
        got, found = asked(server, seek)
        assert count(server, "files.create") == 1
    assert isinstance(got, Unclear)
    assert [one.sha256 for one in found.files] == [hashlib.sha256(SHARD).hexdigest()] * kept


UNCLEAR = [
    does.server_error(),
    does.html(502),
    does.html(200),
    does.html(403),
    does.overloaded("1"),
    does.error_in_200(),
    does.error(408, None),
    does.error(409, None),
    does.no_content(executed=False),
    does.redirect("http://127.0.0.1:1/v1/batches", 302),
    does.redirect("http://127.0.0.1:1/v1/batches", 301),
    does.closed(),
    does.cut(10),
    does.cut(10, body=b'{"error": {"message": "no", "code": "x"}}'),
    does.answer(200, body=b"null", executed=False),
    does.answer(200, body=b"[]", executed=False),
    does.answer(200, body=b'{"id": ""}', executed=False),
    does.answer(200, body=b'{"id": "batch_1", "input_file_id": "file-other"}', executed=False),
    does.answer(400, body=b"bad gateway rule", executed=False),
    does.gzip_garbage(executed=False),
]


@pytest.mark.parametrize("fate", UNCLEAR, ids=lambda fate: fate.name)
def test_a_create_that_may_have_been_done_is_never_called_refused(fate: Behaviour) -> None:
    with FaultServer(on("batches.create", fate)) as server:
        got = asked(server, lambda api: api.create("file-1", CHAT, METADATA))
        assert isinstance(got, Unclear), got
        assert got.message
        assert count(server, "batches.create") == 1


def test_a_create_that_is_not_answered_in_time_is_unclear() -> None:
    with FaultServer(on("batches.create", does.silence())) as server:
        got = asked(server, lambda api: api.create("file-1", CHAT, METADATA), patience=0.2)
        assert isinstance(got, Unclear)
        assert "did not answer" in got.message
        drip = does.drip(1, 0.05)
        server.script = on("batches.create", drip)
        assert isinstance(
            asked(server, lambda api: api.create("file-1", CHAT, METADATA), patience=0.3), Unclear
        )


QUEUE = "Enqueued token limit reached for gpt-6-luna in organization org-1. Limit: 90,000 enqueued tokens."
REFUSALS = [
    (does.error(400, "invalid_value", "Invalid 'endpoint'."), Why.FINAL),
    (does.error(422, None, "No."), Why.FINAL),
    (does.html(413), Why.FINAL),
    (does.error(404, "model_not_found", "The model does not exist."), Why.FINAL),
    (does.rate_limited("7"), Why.NOT_NOW),
    (does.html(429), Why.NOT_NOW),
    (does.error(400, "token_limit_exceeded", QUEUE), Why.QUEUE_FULL),
    (does.error(429, "token_limit_exceeded", QUEUE), Why.QUEUE_FULL),
    (does.error(429, None, QUEUE), Why.QUEUE_FULL),
    (does.error(400, "billing_hard_limit_reached"), Why.NO_MONEY),
    (does.error(429, "credit_balance_exhausted", kind="insufficient_quota"), Why.NO_MONEY),
    (does.error(402, None), Why.NO_MONEY),
    (does.error(401, "invalid_api_key"), Why.NO_ACCESS),
    (does.html(401), Why.NO_ACCESS),
    (does.error(403, None), Why.NO_ACCESS),
    (does.error(400, "invalid_request", "Cannot find file file-1, or no access to it."), Why.FILE_GONE),
    (does.error(404, None, "No such File object: file-1"), Why.FILE_GONE),
    (does.answer(404, body=b'{"detail":"Not Found"}', executed=False), Why.CANNOT),
    (does.answer(404, body=b"404 page not found", executed=False), Why.CANNOT),
    (does.error(405, None, "Method Not Allowed"), Why.CANNOT),
    (does.html(501), Why.CANNOT),
]


@pytest.mark.parametrize(("fate", "why"), REFUSALS, ids=lambda one: getattr(one, "name", None))
def test_why_a_create_was_refused(fate: Behaviour, why: Why) -> None:
    with FaultServer(on("batches.create", fate)) as server:
        got = asked(server, lambda api: api.create("file-1", CHAT, METADATA))
        assert count(server, "batches.create") == 1
    assert isinstance(got, Refused), got
    assert (got.why, got.status) == (why, fate.status)
    assert got.message.startswith(
        f"{server.url.removesuffix('/v1')} answered the create of a batch with HTTP"
    )


def test_a_refusal_says_how_long_to_wait_and_what_the_server_said() -> None:
    with FaultServer(on("batches.create", does.rate_limited("7", message_wait="6.5s"))) as server:
        got = asked(server, lambda api: api.create("file-1", CHAT, METADATA))
        assert (got.wait, got.code) == (6.5, "rate_limit_exceeded")
        server.script = on("batches.create", does.error(400, "token_limit_exceeded", QUEUE))
        got = asked(server, lambda api: api.create("file-1", CHAT, METADATA))
    assert (got.code, got.wait, got.status) == ("token_limit_exceeded", 0.0, 400)
    assert QUEUE in got.message


@pytest.mark.parametrize(
    ("fate", "why"),
    [
        (does.redirect("http://127.0.0.1:1/v1/files", 301), Why.FINAL),
        (does.html(413), Why.FINAL),
        (does.html(403), Why.NO_ACCESS),
        (does.html(404), Why.CANNOT),
        (does.error(400, None, "Invalid file format for Batch API. Must be .jsonl"), Why.FINAL),
    ],
    ids=lambda one: getattr(one, "name", None),
)
def test_an_upload_that_would_never_be_taken_is_refused(shard: Path, fate: Behaviour, why: Why) -> None:
    with FaultServer(on("files.create", fate)) as server:
        got = asked(server, lambda api: api.upload(shard, NAME))
        assert isinstance(got, Refused), got
        assert got.why is why
        assert count(server, "files.create") == 1


@pytest.mark.parametrize(
    "fate",
    [does.server_error(), does.html(200), does.answer(200, body=b'{"object":"file"}', executed=False)],
    ids=["500", "200-html", "no-id"],
)
def test_an_upload_without_an_id_is_unclear(shard: Path, fate: Behaviour) -> None:
    with FaultServer(on("files.create", fate)) as server:
        assert isinstance(asked(server, lambda api: api.upload(shard, NAME)), Unclear)
        assert count(server, "files.create") == 1


def test_what_never_left_is_refused_for_now_and_what_broke_is_not(shard: Path) -> None:
    async def three(url: str) -> tuple[Any, Any, Any]:
        async with connected(url) as api:
            return (
                await api.upload(shard, NAME),
                await api.create("file-1", CHAT, METADATA),
                await api.retrieve("batch_1"),
            )

    with FaultServer() as server:
        url = server.url
    upload, create, look = asyncio.run(three(url))
    assert (upload.why, create.why) == (Why.NOT_NOW, Why.NOT_NOW)
    assert "cannot be reached (ConnectError)" in create.message
    assert isinstance(look, Unclear)


def test_a_certificate_that_nobody_trusts_will_not_be_trusted_later() -> None:
    import httpx2
    import openai

    async def ask() -> Any:
        below = httpx2.ConnectError("no")
        below.__cause__ = ssl.SSLCertVerificationError("self-signed")
        raise openai.APIConnectionError(request=httpx2.Request("POST", "https://host")) from below

    reply = asyncio.run(exchange(ask, seconds=1.0))
    assert (reply.status, reply.fault, reply.sent) == (None, "tls_error", False)


def test_an_upload_of_a_file_that_is_not_there_is_the_callers_trouble(tmp_path: Path) -> None:
    with FaultServer() as server, pytest.raises(FileNotFoundError):
        asked(server, lambda api: api.upload(tmp_path / "none", NAME))


# --- what is safe to repeat


@pytest.mark.parametrize(
    "fate",
    [
        does.server_error(),
        does.html(502),
        does.reset(),
        does.html(200),
        does.html(404),
        does.error(408, None),
    ],
    ids=lambda fate: fate.name,
)
def test_what_is_safe_to_repeat_is_asked_again(fate: Behaviour) -> None:
    def once_per_operation(arrival: Arrival) -> Behaviour:
        assert arrival.operation is not None
        seen[arrival.operation.name] = seen.get(arrival.operation.name, 0) + 1
        return fate if seen[arrival.operation.name] == 1 else does.ok()

    async def four(api: BatchApi) -> list[Any]:
        return [
            await api.list_page(None),
            await api.retrieve("batch_1"),
            await api.delete_file("file-1"),
            await api.find_files(NAME, 1),
        ]

    seen: dict[str, int] = {}
    with FaultServer(once_per_operation) as server:
        page, batch, deleted, files = asked(server, four)
    assert page == Page((), False)
    assert (batch.why, batch.status) == (Why.FILE_GONE, 404)
    assert deleted == Deleted()
    assert files == FilesSeen(())
    assert set(seen.values()) == {2}


def test_an_hour_of_500s_is_unclear_after_a_few_tries() -> None:
    with FaultServer("ok", batches="trouble:60") as server:
        got = asked(server, lambda api: api.retrieve("batch_1"))
        assert isinstance(got, Unclear)
        assert count(server, "batches.retrieve") == 3


def test_a_batch_that_is_not_found_once_is_said_to_be_gone_once(shard: Path) -> None:
    async def twice(api: BatchApi) -> tuple[Any, Any]:
        file = await api.upload(shard, NAME)
        assert isinstance(file, FileSeen)
        made = await api.create(file.id, CHAT, METADATA)
        assert isinstance(made, Created)
        return await api.retrieve(made.batch_id), await api.retrieve(made.batch_id)

    with FaultServer(batches="not-found-once") as server:
        first, second = asked(server, twice)
    assert (first.why, isinstance(second, RemoteBatch)) == (Why.FILE_GONE, True)


def test_a_list_that_lags_and_a_server_that_cannot_list(shard: Path) -> None:
    async def look(api: BatchApi) -> Any:
        file = await api.upload(shard, NAME)
        assert isinstance(file, FileSeen)
        assert isinstance(await api.create(file.id, CHAT, METADATA), Created)
        return await api.list_page(None)

    with FaultServer(batches="list-lag:60") as server:
        assert asked(server, look) == Page((), False)
    for fate in (does.error(405, None), does.answer(404, body=b'{"detail":"Not Found"}', executed=False)):
        with FaultServer(on("batches.list", fate)) as server:
            got = asked(server, lambda api: api.list_page(None))
            assert got.why is Why.CANNOT


def test_a_cancel_is_asked_once_and_shows_the_batch(shard: Path) -> None:
    async def cancel(api: BatchApi) -> tuple[Any, Any]:
        file = await api.upload(shard, NAME)
        assert isinstance(file, FileSeen)
        made = await api.create(file.id, CHAT, METADATA)
        assert isinstance(made, Created)
        return await api.cancel(made.batch_id), await ended(api, made.batch_id)

    with FaultServer(batches="stuck", batch_time=0.05) as server:
        first, last = asked(server, cancel)
    assert (first.status, last.status) == ("cancelling", "cancelled")
    with FaultServer(on("batches.cancel", does.server_error())) as server:
        assert isinstance(asked(server, lambda api: api.cancel("batch_1")), Unclear)
        assert count(server, "batches.cancel") == 1


def test_files_of_the_name_whose_bytes_are_not_handed_out_have_no_sum(shard: Path) -> None:
    async def seek(api: BatchApi) -> tuple[Any, Any]:
        await api.upload(shard, NAME)
        return await api.find_files(NAME, SIZE), await api.find_files(NAME, 5)

    refusal = does.error(400, None, "Not allowed to download files of purpose: batch")
    with FaultServer(on("files.content", refusal)) as server:
        found, other = asked(server, seek)
        assert count(server, "files.content") == 1, "those of another size are not read"
    assert [one.sha256 for one in found.files] == [one.sha256 for one in other.files] == [None]


# --- keys


@pytest.mark.parametrize("status", [302, 307, 308])
def test_no_redirect_is_followed(status: int) -> None:
    with FaultServer() as elsewhere, FaultServer() as server:
        server.script = lambda _: does.redirect(elsewhere.url + "/batches", status)
        assert isinstance(asked(server, lambda api: api.retrieve("batch_1")), Unclear)
        assert isinstance(asked(server, lambda api: api.create("file-1", CHAT, METADATA)), Unclear)
        assert elsewhere.ledger.arrivals == []


@pytest.mark.parametrize("status", [400, 401, 403, 409, 500])
def test_no_key_stands_in_what_is_said(shard: Path, status: int) -> None:
    said = f"Incorrect API key provided: {KEY}. You sent Bearer {KEY}, or was it sk-proj-abc123def456?"

    async def four(api: BatchApi) -> list[Any]:
        return [
            await api.create("file-1", CHAT, METADATA),
            await api.upload(shard, NAME),
            await api.list_page(None),
            await api.download("file-1", shard.with_name("out")),
        ]

    with FaultServer(lambda _: does.error(status, KEY, said)) as server:
        answers = asked(server, four)
        assert all(KEY in one.headers["authorization"] for one in server.ledger.arrivals)
    for got in answers:
        assert isinstance(got, (Refused, Unclear))
        assert KEY not in repr(got)
        assert "sk-proj" not in repr(got)
        assert "Incorrect API key" in got.message


# --- downloads


CONTENT = b"".join(b'{"custom_id": "r%d", "n": "%s"}\n' % (row, b"x" * (row % 70)) for row in range(400))


class Files:
    """A script that hands CONTENT out, each request by the next of the fates; it can continue if `ranges`."""

    def __init__(self, *fates: Behaviour, size: int | None = len(CONTENT), ranges: bool = False) -> None:
        self.fates = list(fates)
        self.size = size
        self.ranges = ranges
        self.asked: list[str | None] = []

    def __call__(self, arrival: Arrival) -> Behaviour:
        assert arrival.operation is not None
        if arrival.operation.name == "files.retrieve":
            shown: dict[str, object] = {"id": arrival.operation.ident}
            return does.answer(200, body=json.dumps(shown | {"bytes": self.size}).encode(), executed=False)
        wanted = arrival.headers.get("range")
        self.asked.append(wanted)
        fate = self.fates.pop(0) if self.fates else does.answer(executed=False, body=CONTENT)
        if wanted is None or not self.ranges:
            return fate
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        head = ("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        return replace(fate, status=206, headers=(*fate.headers, head), body=CONTENT[start:])


def downloaded(script: Files, tmp_path: Path, *, patience: float = 5.0) -> Any:
    to = tmp_path / "out"
    with FaultServer(script) as server:
        got = asked(server, lambda api: api.download("file-1", to), patience=patience)
    if isinstance(got, (Refused, Unclear)):
        assert not to.exists()
    else:
        assert to.read_bytes() == CONTENT
        assert got == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert not (tmp_path / "out.part").exists()
    return got


def test_a_download_cut_at_any_place_comes_whole(tmp_path: Path) -> None:
    rng = random.Random(5)
    for ranges in (False, True):
        for place in [0, 1, len(CONTENT) - 1, *(rng.randrange(len(CONTENT)) for _ in range(20))]:
            script = Files(does.cut(place, body=CONTENT), ranges=ranges)
            assert not isinstance(downloaded(script, tmp_path), Unclear)
            assert len(script.asked) == 2
            again = script.asked[1]
            assert again == (f"bytes={place}-" if place else None), "what came is not asked for twice"
            (tmp_path / "out").unlink()


def test_a_download_cut_at_a_third_over_the_whole_way(shard: Path) -> None:
    async def all_of_it(api: BatchApi) -> Any:
        _, batch = await submitted(api, shard)
        assert batch.output_file_id is not None
        return await api.download(batch.output_file_id, shard.with_name("out"))

    with FaultServer(batches="cut-download*3", batch_time=0.05) as server:
        got = asked(server, all_of_it)
        assert count(server, "files.content") == 4
    assert shard.with_name("out").read_bytes().count(b"\n") == 30
    assert got.size == shard.with_name("out").stat().st_size


@pytest.mark.parametrize(
    "fate",
    [
        does.wrong_length(7, body=CONTENT),
        does.wrong_length(-7, body=CONTENT),
        does.cut(5_000, body=CONTENT, with_reset=True),
        does.chunked(999, cut_at=5_000, body=CONTENT),
        does.raw(b"HTTP/1.1 200 OK\r\n\r\n" + CONTENT[:5_000], executed=False),
        does.html(200),
        does.html(404),
        does.server_error(),
        does.error_in_200(),
        does.gzip_garbage(executed=False),
        does.no_content(executed=False),
    ],
    ids=lambda fate: fate.name,
)
def test_a_download_that_came_to_no_whole_file_begins_again(tmp_path: Path, fate: Behaviour) -> None:
    assert not isinstance(downloaded(Files(fate), tmp_path), Unclear)


def test_a_silent_download_is_given_up_and_begun_again(tmp_path: Path) -> None:
    script = Files(does.silence(executed=False))
    assert not isinstance(downloaded(script, tmp_path, patience=0.2), Unclear)


def test_a_server_that_continues_at_another_place_is_not_believed(tmp_path: Path) -> None:
    odd = does.answer(206, [("Content-Range", "bytes 7-99/100")], CONTENT[7:100], executed=False)
    gone = does.error(416, None)
    for fates in ([odd], [gone], [odd, gone, odd]):
        script = Files(does.cut(50, body=CONTENT), *fates)
        assert not isinstance(downloaded(script, tmp_path), Unclear)
        (tmp_path / "out").unlink()


def test_a_part_of_another_place_is_not_taken_though_nothing_else_tells(tmp_path: Path) -> None:
    odd = does.answer(206, [("Content-Range", "bytes 7-99/100")], CONTENT[7:], executed=False)
    assert not isinstance(downloaded(Files(does.cut(50, body=CONTENT), odd, size=None), tmp_path), Unclear)


def test_where_no_part_is_to_be_had_the_whole_is_asked_for(tmp_path: Path) -> None:
    script = Files(does.cut(50, body=CONTENT), does.error(416, None))
    assert not isinstance(downloaded(script, tmp_path), Unclear)
    assert script.asked == [None, "bytes=50-", None]


@pytest.mark.parametrize(
    ("fate", "word"),
    [(does.html(200), "an HTML page"), (does.error_in_200(), "an error instead")],
    ids=["page", "error"],
)
def test_what_is_no_file_is_never_taken_for_one(tmp_path: Path, fate: Behaviour, word: str) -> None:
    got = downloaded(Files(*[fate] * 6, size=None), tmp_path)
    assert isinstance(got, Unclear)
    assert word in got.message


def test_a_compressed_download(tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT)
    whole = does.answer(200, [("Content-Encoding", "gzip")], packed, executed=False)
    assert not isinstance(downloaded(Files(whole), tmp_path), Unclear)
    (tmp_path / "out").unlink()
    script = Files(replace(does.cut(len(packed) // 2, body=packed), headers=whole.headers), ranges=True)
    assert not isinstance(downloaded(script, tmp_path), Unclear)
    assert script.asked == [None, None], "no part can be asked for of what was compressed"


def test_a_download_that_is_always_cut_ends(tmp_path: Path) -> None:
    script = Files(*[does.cut(5_000, body=CONTENT)] * 10)
    got = downloaded(script, tmp_path)
    assert isinstance(got, Unclear)
    assert f"5,000 bytes of {len(CONTENT):,} so far" in got.message
    assert len(script.asked) == 6


def test_a_size_that_is_not_true(tmp_path: Path) -> None:
    small = Files(size=5)
    assert not isinstance(downloaded(small, tmp_path), Unclear), "twice the same and more than was said"
    assert len(small.asked) == 2
    (tmp_path / "out").unlink()
    assert not isinstance(downloaded(Files(size=None), tmp_path), Unclear)
    (tmp_path / "out").unlink()
    large = Files(size=len(CONTENT) + 5)
    got = downloaded(large, tmp_path)
    assert isinstance(got, Unclear), "what is shorter than was said is never called whole"
    assert len(large.asked) == 6


def test_a_last_line_that_is_broken_at_the_server_is_taken_as_it_is(tmp_path: Path) -> None:
    broken = CONTENT + b'{"custom_id": "r4'
    script = Files(*[does.answer(executed=False, body=broken)] * 2, size=len(broken))
    with FaultServer(script) as server:
        got = asked(server, lambda api: api.download("file-1", tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == broken
    assert (got.size, len(script.asked)) == (len(broken), 2)


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    with FaultServer(Files(does.answer(executed=False, body=b""), size=0)) as server:
        got = asked(server, lambda api: api.download("file-1", tmp_path / "out"))
    assert got == (0, hashlib.sha256(b"").hexdigest())
    assert (tmp_path / "out").read_bytes() == b""


@pytest.mark.parametrize(
    ("fate", "why"),
    [
        (does.error(404, None, "No such File object: file-1"), Why.FILE_GONE),
        (does.error(403, None), Why.NO_ACCESS),
        (does.html(403), Why.NO_ACCESS),
        (does.rate_limited("3"), Why.NOT_NOW),
    ],
    ids=lambda one: getattr(one, "name", None),
)
def test_a_download_that_is_refused(tmp_path: Path, fate: Behaviour, why: Why) -> None:
    script = Files(fate)
    got = downloaded(script, tmp_path)
    assert got.why is why
    assert len(script.asked) == 1


def test_a_full_disk_is_the_callers_trouble(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "out.part").symlink_to(full)
    with FaultServer(Files()) as server, pytest.raises(OSError, match="No space") as caught:
        asked(server, lambda api: api.download("file-1", tmp_path / "out"))
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_download_leaves_an_older_file_as_it_is_until_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"older\n")
    with FaultServer(Files(*[does.cut(50, body=CONTENT)] * 10)) as server:
        assert isinstance(asked(server, lambda api: api.download("file-1", tmp_path / "out")), Unclear)
        assert (tmp_path / "out").read_bytes() == b"older\n"
    downloaded(Files(), tmp_path)


# --- odd bodies


def test_azures_answers_are_read_as_ours() -> None:
    found = batch_of(
        {
            "id": "batch_1",
            "status": "completed",
            "output_file_id": "",
            "error_file_id": "file-error",
            "created_at": 1711402400,
            "expires_at": None,
            "errors": None,
            "request_counts": {"total": 3, "completed": None, "failed": None},
            "usage": None,
            "metadata": None,
            "model": "",
            "endpoint": "/chat/completions",
        }
    )
    assert found == RemoteBatch(
        "batch_1",
        "completed",
        endpoint="/chat/completions",
        error_file_id="file-error",
        created_at=1711402400.0,
        total=3,
    )


def test_a_batch_with_hardly_anything_said_of_it() -> None:
    assert batch_of({"id": "batch_1", "status": "reticulating"}) == RemoteBatch("batch_1", "reticulating")
    odd = {
        "errors": {"data": [{"code": None, "line": "x"}, {"code": 7, "message": "bad\n", "line": 3}, None]},
        "request_counts": [],
        "usage": {"input_tokens": 5, "output_tokens": -1, "input_tokens_details": None},
        "metadata": {"shard": "s", "n": 5},
        "created_at": "yesterday",
    }
    found = batch_of({"id": "batch_1", "status": "failed", **odd})
    assert found is not None
    assert found.failures == (Failure("", "", None, None), Failure("7", "bad\\n", 3, None))
    assert (found.usage, found.metadata, found.created_at) == (Usage(input=5, total=5), {"shard": "s"}, None)


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b"7", b'{"id": null, "status": "completed"}', b'{"id": "batch_2"}', b"\xff"],
)
def test_what_is_no_batch_is_none(body: bytes) -> None:
    assert read_batch(body, None) is None
    assert read_batch(b'\xef\xbb\xbf{"id": "batch_1", "status": "failed"}', "batch_2") is None


def test_a_list_with_odd_entries() -> None:
    body = json.dumps(
        {"data": [None, {"id": ""}, {"id": "b", "metadata": {"attempt": "x"}, "status": "failed"}, 5]}
    )
    page = read_page(body.encode(), None, limit=100)
    assert page is not None
    assert page == Page(((("b", math.inf, True, None, None, None)),), False)  # type: ignore[arg-type]
    assert read_page(b'{"data": null}', None, limit=100) is None
    assert read_page(b"<html>", None, limit=100) is None
    assert read_page(b'{"data": [{"id": "a"}]}', None, limit=1) == page._replace(
        batches=(page.batches[0].__class__("a", math.inf, False, None, None, None),), has_more=True
    )


# --- the provider's limits


def test_the_hours_batches_are_counted(shard: Path) -> None:
    async def twice(api: BatchApi) -> tuple[Any, Any]:
        return await api.create("file-1", CHAT, METADATA), await api.create("file-1", CHAT, METADATA)

    with FaultServer() as server:
        first, second = asked(server, twice, replace(OPENAI, creates_per_hour=10))
        assert count(server, "batches.create") == 1
    assert isinstance(first, Created)
    assert (second.why, second.wait) == (Why.NOT_NOW, 400.0)
    assert "10 batches an hour" in second.message


def test_uploads_wait_for_their_turn(shard: Path) -> None:
    async def twice(api: BatchApi) -> None:
        await api.upload(shard, NAME)
        async with asyncio.timeout(0.1):
            await api.upload(shard, NAME)

    with FaultServer() as server:
        with pytest.raises(TimeoutError):
            asked(server, twice, replace(OPENAI, uploads_per_minute=10))
        assert count(server, "files.create") == 1


def test_an_upload_asks_for_a_life_only_where_the_provider_demands_it(shard: Path) -> None:
    with FaultServer() as server:
        plain = asked(server, lambda api: api.upload(shard, NAME), AZURE)
        short = asked(server, lambda api: api.upload(shard, NAME), replace(AZURE, file_expiry=1_209_600))
        bodies = [one.body for one in server.ledger.arrivals]
    assert isinstance(plain, FileSeen)
    assert isinstance(short, FileSeen)
    assert [b"expires_after" in body for body in bodies] == [False, True]
    assert b"1209600" in bodies[1]
