"""The fault server's Batch API speaks to the official SDK, goes wrong as it is told, and counts what it did."""

import asyncio
import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import faultserver
import openai
import pytest
from faultserver import B1_CASES, FaultServer, b1, named_batches
from openai.types import Batch

CHAT = "/v1/chat/completions"
OVER = {"completed", "failed", "expired", "cancelled"}
QUARANTINE = 1.0
UNHEARD = (ConnectionError, http.client.HTTPException)


def chat_body(row: object) -> dict[str, Any]:
    return {"model": "gpt-6-luna", "messages": [{"role": "user", "content": f"row={row} say"}]}


def line(row: object, **changes: object) -> dict[str, Any]:
    return {"custom_id": f"r{row}", "method": "POST", "url": CHAT, "body": chat_body(row), **changes}


def jsonl(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def sha_of(row: object) -> str:
    return hashlib.sha256(json.dumps(chat_body(row)).encode()).hexdigest()


@asynccontextmanager
async def connected(server: FaultServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=server.url, api_key="sk-x", max_retries=0, timeout=5) as client:
        yield client


async def submit(client: openai.AsyncOpenAI, content: bytes, **more: Any) -> Batch:
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h", **more)


async def polled(client: openai.AsyncOpenAI, ident: str, *statuses: str) -> list[Batch]:
    """Every look at a batch until it has one of these statuses, by default until it is over."""
    looks = []
    async with asyncio.timeout(10):
        while not looks or looks[-1].status not in (statuses or OVER):
            looks.append(await client.batches.retrieve(ident))
    return looks


async def lines_of(client: openai.AsyncOpenAI, ident: str | None) -> list[dict[str, Any]]:
    assert ident
    content = (await client.files.content(ident)).content
    assert content.endswith(b"\n") or not content
    return [json.loads(one) for one in content.split(b"\n")[:-1]]


# With the official SDK, in perfect health


async def a_batch_from_end_to_end(server: FaultServer) -> None:
    async with connected(server) as client:
        content = jsonl([line(row) for row in range(40)])
        file = await client.files.create(
            file=("shard-1.jsonl", content),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 7_200},
        )
        assert (file.filename, file.bytes, file.purpose) == ("shard-1.jsonl", len(content), "batch")
        assert file.expires_at == file.created_at + 7_200
        assert (await client.files.content(file.id)).content == content
        made = await client.batches.create(
            input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"sub": "s1"}
        )
        assert (made.status, made.metadata, made.output_file_id) == ("validating", {"sub": "s1"}, None)
        looks = await polled(client, made.id)
        seen = list(dict.fromkeys(look.status for look in [made, *looks]))
        assert seen == ["validating", "in_progress", "finalizing", "completed"]
        assert len({look.request_counts.completed for look in looks if look.request_counts}) > 2
        last = looks[-1]
        assert last.request_counts is not None
        assert last.request_counts.model_dump() == {"total": 40, "completed": 40, "failed": 0}
        assert (last.error_file_id, last.errors, last.model) == (None, None, "gpt-6-luna")
        answers = await lines_of(client, last.output_file_id)
        assert [one["custom_id"] for one in answers] == [f"r{row}" for row in range(40)]
        for row, one in enumerate(answers):
            assert (one["error"], one["response"]["status_code"]) == (None, 200)
            assert one["response"]["body"]["choices"][0]["message"]["content"].endswith(f"row={row}")
        spent = [one["response"]["body"]["usage"] for one in answers]
        assert last.usage is not None
        assert last.usage.input_tokens == sum(one["prompt_tokens"] for one in spent)
        assert last.usage.total_tokens == sum(one["total_tokens"] for one in spent)
        assert last.usage.total_tokens == server.ledger.usage["total"]


def test_the_sdk_takes_a_batch_from_end_to_end() -> None:
    with FaultServer(batch_time=1.0) as server:
        asyncio.run(a_batch_from_end_to_end(server))
        content = jsonl([line(row) for row in range(40)])
        assert server.ledger.executed == {sha_of(row): 1 for row in range(40)}
        assert server.ledger.executed_rows == {str(row): 1 for row in range(40)}
        (upload,) = server.ledger.noted("uploaded")
        assert (upload["sha"], upload["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
        (create,) = server.ledger.creates()
        assert (create["input_file_id"], create["input_sha"]) == (upload["file"], upload["sha"])
        assert (create["metadata"], create["endpoint"]) == ({"sub": "s1"}, CHAT)
        (batch,) = server.ledger.batches().values()
        assert (batch["status"], batch["lines"], batch["done"]) == ("completed", 40, 40)
        assert len(server.ledger.noted("downloaded")) == 2


def test_online_and_batch_are_one_account() -> None:
    async def both(server: FaultServer) -> None:
        async with connected(server) as client:
            await polled(client, (await submit(client, jsonl([line(1), line(2)]))).id)

    with FaultServer(batch_time=0) as server:
        asyncio.run(both(server))
        wire = Wire(server)
        assert wire.ask("POST", CHAT, json.dumps(chat_body(2)).encode())[0] == 200
        wire.close()
        assert server.ledger.executed == {sha_of(1): 1, sha_of(2): 2}


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/responses", {"model": "gpt-6-luna", "input": "hello"}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 8}),
    ],
)
def test_the_other_endpoints_answer_in_a_batch_as_online(endpoint: Any, body: dict[str, Any]) -> None:
    async def ask(server: FaultServer) -> dict[str, Any]:
        async with connected(server) as client:
            content = jsonl([line(1, url=endpoint, body=body)])
            file = await client.files.create(file=("in.jsonl", content), purpose="batch")
            made = await client.batches.create(
                input_file_id=file.id, endpoint=endpoint, completion_window="24h"
            )
            (answer,) = await lines_of(client, (await polled(client, made.id))[-1].output_file_id)
            return answer["response"]["body"]

    with FaultServer(batch_time=0) as server:
        batch = asyncio.run(ask(server))
        wire = Wire(server)
        online = json.loads(wire.ask("POST", endpoint, json.dumps(body).encode())[1])
        wire.close()
    changing = {"id", "created_at", "completed_at", "output"}
    assert {name: batch[name] for name in batch if name not in changing} == {
        name: online[name] for name in online if name not in changing
    }
    assert "output" not in batch or batch["output"][0]["content"] == online["output"][0]["content"]


def test_lists_have_pages_and_files_can_be_deleted() -> None:
    async def walk(server: FaultServer) -> None:
        async with connected(server) as client:
            assert (await client.batches.list()).data == []
            made = [await submit(client, jsonl([line(row)])) for row in range(5)]
            await client.files.create(file=("notes.txt", b"x"), purpose="user_data")
            newest = [one.id for one in reversed(made)]
            assert [one.id async for one in client.batches.list(limit=2)] == newest
            first = await client.batches.list(limit=2)
            assert (first.has_more, [one.id for one in first.data]) == (True, newest[:2])
            inputs = [one.input_file_id for one in made]
            listed = [one.id async for one in client.files.list(purpose="batch", order="asc", limit=2)]
            assert listed == inputs
            assert [one.purpose for one in (await client.files.list(limit=1)).data] == ["user_data"]
            gone = await client.files.delete(inputs[0])
            assert gone.deleted
            for call in (client.files.retrieve, client.files.content, client.files.delete):
                with pytest.raises(openai.NotFoundError):
                    await call(inputs[0])
            with pytest.raises(openai.NotFoundError):
                await client.batches.retrieve("batch_nobody")
            with pytest.raises(openai.BadRequestError):
                await client.batches.list(limit=101)
            with pytest.raises(openai.BadRequestError):
                await client.files.list(after="file-nobody")

    with FaultServer(batches="stuck*5") as server:
        asyncio.run(walk(server))
        assert len(server.ledger.noted("deleted")) == 1


def test_a_cancelled_batch_keeps_what_it_had_done() -> None:
    async def cancel(server: FaultServer) -> None:
        async with connected(server) as client:
            made = await submit(client, jsonl([line(row) for row in range(10)]))
            async with asyncio.timeout(5):
                while (look := await client.batches.retrieve(made.id)).status != "in_progress":
                    pass
            assert (await client.batches.cancel(look.id)).status == "cancelling"
            last = (await polled(client, made.id))[-1]
            assert last.status == "cancelled"
            done = await lines_of(client, last.output_file_id)
            rest = await lines_of(client, last.error_file_id)
            assert 0 < len(done) < 10
            assert {one["error"]["code"] for one in rest} == {"batch_cancelled"}
            assert [one["custom_id"] for one in done + rest] == [f"r{row}" for row in range(10)]
            assert (await client.batches.cancel(made.id)).status == "cancelled"

            whole = (await polled(client, (await submit(client, jsonl([line(77)]))).id))[-1]
            with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'completed'"):
                await client.batches.cancel(whole.id)

    with FaultServer(batches="stuck", batch_time=0.05) as server:
        asyncio.run(cancel(server))
        assert [one["status"] for one in server.ledger.batches().values()] == ["cancelled", "completed"]
        assert len(server.ledger.noted("cancelled")) == 2


@pytest.mark.parametrize(
    ("lines", "code", "number", "param"),
    [
        ([line(1), line(1)], "duplicate_custom_id", 2, "custom_id"),
        (
            [line(1), {"custom_id": "r2", "url": CHAT, "body": chat_body(2)}],
            "missing_required_parameter",
            2,
            "method",
        ),
        ([line(1, url="/v1/responses")], "invalid_url", 1, "url"),
        ([line(1), line(2, body=chat_body(2) | {"model": "gpt-6-sol"})], "mismatched_model", 2, "body.model"),
        ([line(1, body=chat_body(1) | {"stream": True})], "streaming_unsupported", 1, "body.stream"),
        ([line(1, custom_id="x" * 65)], "invalid_value", 1, "custom_id"),
        ([line(row) for row in range(50_001)], "too_many_tasks", None, None),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_bad_line_fails_its_batch_and_nothing_is_paid(
    lines: list[dict[str, Any]], code: str, number: int | None, param: str | None
) -> None:
    async def fail(server: FaultServer) -> None:
        async with connected(server) as client:
            last = (await polled(client, (await submit(client, jsonl(lines))).id))[-1]
            assert last.status == "failed"
            assert last.errors is not None
            assert last.errors.data
            (fault,) = last.errors.data
            assert (fault.code, fault.line, fault.param) == (code, number, param)

    with FaultServer(batch_time=0) as server:
        asyncio.run(fail(server))
        assert not server.ledger.executed


def test_what_the_api_refuses_at_once_is_refused_at_once() -> None:
    async def refuse(server: FaultServer) -> None:
        async with connected(server) as client:
            for file in (
                ("in.txt", jsonl([line(1)])),
                ("in.jsonl", b"\xef\xbb\xbf{}\n"),
                ("in.jsonl", b"no\n"),
            ):
                with pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl"):
                    await client.files.create(file=file, purpose="batch")
            with pytest.raises(openai.BadRequestError, match="expires_after"):
                await client.files.create(
                    file=("in.jsonl", b"{}"),
                    purpose="batch",
                    expires_after={"anchor": "created_at", "seconds": 60},
                )
            wrong: list[dict[str, Any]] = [
                {"endpoint": "/v1/audio/speech"},
                {"completion_window": "1h"},
                {"metadata": {"n": 1}},
                {"metadata": {"n": "x" * 513}},
                {"metadata": {str(n): "" for n in range(17)}},
                {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
            ]
            fine: dict[str, Any] = {"input_file_id": "f", "endpoint": CHAT, "completion_window": "24h"}
            for change in wrong:
                with pytest.raises(openai.BadRequestError):
                    await client.batches.create(**fine | change)
            made = await client.batches.create(**fine)
            last = (await polled(client, made.id))[-1]
            assert last.errors is not None
            assert last.errors.data
            assert "Cannot find file f" in (last.errors.data[0].message or "")

    with FaultServer(batch_time=0) as server:
        asyncio.run(refuse(server))
        (create,) = server.ledger.creates()
        assert create["input_sha"] is None


def test_a_line_that_the_endpoint_refuses_stands_in_the_error_file() -> None:
    async def refuse(server: FaultServer) -> None:
        async with connected(server) as client:
            last = (await polled(client, (await submit(client, jsonl([line(1, body={"model": "m"})]))).id))[
                -1
            ]
            assert (last.status, last.output_file_id) == ("completed", None)
            (one,) = await lines_of(client, last.error_file_id)
            assert one["error"] is None
            assert one["response"]["status_code"] == 400
            assert one["response"]["body"]["error"]["param"] == "messages"

    with FaultServer(batch_time=0) as server:
        asyncio.run(refuse(server))
        assert not server.ledger.executed


# A careful client: every fault can be got over, each row answered and paid once


class Wire:
    """The operations as a client on the bare wire sees them; a lost answer is a ConnectionError."""

    def __init__(self, server: FaultServer) -> None:
        self._client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[int, bytes]:
        try:
            self._client.request(method, path, body, {"Content-Type": kind})
            got = self._client.getresponse()
            return got.status, got.read()
        except UNHEARD:
            self._client.close()
            raise

    def close(self) -> None:
        self._client.close()

    def json(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        """The object of a 2xx, None for anything else."""
        status, answer = self.ask(method, path, body, kind)
        return json.loads(answer) if status < 300 else None


class CarefulClient:
    """Sends rows in batches until each is answered: adopts what it cannot know, pays nothing twice."""

    def __init__(self, server: FaultServer, rows: int) -> None:
        self.wire = Wire(server)
        self.todo = {f"r{row}": line(row) for row in range(rows)}
        self.answers: dict[str, Any] = {}
        self.held = 0
        self._attempt = 0

    def run(self) -> None:
        deadline = time.monotonic() + 10
        while self.todo:
            assert time.monotonic() < deadline, f"{len(self.todo)} rows left"
            batch = self._create()
            if batch is not None:
                self._collect(self._ended(batch["id"]))
        self.wire.close()

    def _upload(self) -> str:
        self._attempt += 1
        name = f"shard-{self._attempt}.jsonl"
        form = (
            b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\n%b\r\n--b--\r\n'
        ) % (name.encode(), jsonl(list(self.todo.values())))
        kind = "multipart/form-data; boundary=b"
        try:
            return self.wire.json("POST", "/v1/files", form, kind)["id"]
        except UNHEARD:
            listed = self.wire.json("GET", "/v1/files?purpose=batch&limit=10000")["data"]
            found = [one["id"] for one in listed if one["filename"] == name]
            return found[0] if found else self._upload()

    def _create(self) -> Any:
        """A batch, or None where none came of it and it may be tried again."""
        file = self._upload()
        asked = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        try:
            return self.wire.json("POST", "/v1/batches", json.dumps(asked).encode())
        except UNHEARD:
            until = time.monotonic() + QUARANTINE
            while time.monotonic() < until:
                listed = self.wire.json("GET", "/v1/batches?limit=100")
                for one in listed["data"] if listed else ():
                    if one["input_file_id"] == file:
                        return one
            return None

    def _ended(self, ident: str) -> Any:
        """The batch once it has said the same end twice running."""
        before = None
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            found = self.wire.json("GET", f"/v1/batches/{ident}")
            if found is None:
                continue
            now = (found["status"], found["output_file_id"], found["error_file_id"])
            if now == before and found["status"] in OVER:
                return found
            before = now
        raise AssertionError(f"{ident} does not end: {before}")

    def _collect(self, batch: Any) -> None:
        sent = set(self.todo)
        gone = False
        for name in ("output_file_id", "error_file_id"):
            content = self._content(batch[name]) if batch[name] else b""
            gone = gone or (content is None and name == "output_file_id")
            for one in (json.loads(part) for part in (content or b"").split(b"\n")[:-1]):
                ident = one["custom_id"]
                response = one["response"]
                if response and response["status_code"] == 200 and self.todo.pop(str(ident), None):
                    self.answers[ident] = response["body"]
                elif ident in sent:
                    sent.discard(ident)
        if gone:
            # What has no answer and no error may have been paid: it is not asked again.
            for ident in sent & set(self.todo):
                self.held += 1
                del self.todo[ident]

    def _content(self, ident: str) -> bytes | None:
        while True:
            with suppress(*UNHEARD):
                status, content = self.wire.ask("GET", f"/v1/files/{ident}/content")
                return content if status == 200 else None


CASES = {
    "plain": 1,
    "create-lost-executed": 1,
    "create-lost": 1,
    "create-late:0.1": 1,
    "list-lag:0.2": 1,
    "create-lost-executed+list-lag:0.2": 1,
    "create-late:0.1+list-lag:0.1": 1,
    "upload-reset": 1,
    "upload-lost": 1,
    "expired:0.4": 2,
    "failed-validation": 2,
    "failed-validation:mismatched_model": 2,
    "queue-full:3": 4,
    "queue-full-400:3": 1,
    "error-lines": 2,
    "unicode": 1,
    "missing-row": 2,
    "doubled-row": 1,
    "unknown-row": 1,
    "shuffled": 1,
    "flapping": 1,
    "not-found-once": 1,
    "trouble:0.1": 1,
    "odd-word": 1,
    "counts-down": 1,
    "cut-download": 1,
    "no-files": 2,
    "empty-ids": 1,
    "empty-error-file": 1,
    "cancelled-partial": 2,
    "create-lost-executed*2+queue-full:1+expired:0.5+error-lines+missing-row+unicode+shuffled+cut-download": 5,
}


@pytest.mark.parametrize("name", CASES)
def test_each_fault_can_be_got_over_paying_each_row_once(name: str) -> None:
    with FaultServer(batches=name, batch_time=0.02) as server:
        client = CarefulClient(server, 30)
        client.run()
        assert sorted(client.answers) == sorted(f"r{row}" for row in range(30))
        assert server.ledger.executed == {sha_of(row): 1 for row in range(30)}
        assert len(server.ledger.creates()) == CASES[name]
        assert sum(batch["done"] for batch in server.ledger.batches().values()) == 30
        for row in range(30):
            assert f"row={row}" in client.answers[f"r{row}"]["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("name", "behaviour", "times"),
    [
        ("create-lost-executed", "lost", 1),
        ("create-lost", "reset", 1),
        ("create-late:0.05", "late", 1),
        ("upload-reset", "lost", 1),
        ("upload-lost*2", "reset", 2),
        ("queue-full-400:3", "400-token_limit_exceeded", 3),
        ("not-found-once", "404", 1),
        ("cut-download", "cut-share", 1),
    ],
)
def test_each_fault_happens_as_often_as_it_says(name: str, behaviour: str, times: int) -> None:
    with FaultServer(batches=name, batch_time=0) as server:
        CarefulClient(server, 3).run()
        assert server.ledger.behaviours[behaviour] == times
        assert set(server.ledger.behaviours) == {behaviour, "ok"}


@pytest.mark.parametrize("slice_", range(8))
def test_each_case_of_b1_can_be_got_over_paying_each_row_once(slice_: int) -> None:
    for number in range(slice_, B1_CASES, 8):
        case = b1(number)
        with FaultServer(batches=f"b1:{number}", batch_time=0) as server:
            client = CarefulClient(server, 6)
            client.run()
            assert len(client.answers) + client.held == 6, case
            assert bool(client.held) == case.answers_gone, case
            assert max(server.ledger.executed.values()) == 1, case
            assert set(client.answers) <= {f"r{row}" for row in range(6)}, case


def test_the_cases_of_b1_are_all_there_are() -> None:
    cases = [b1(number) for number in range(B1_CASES)]
    assert B1_CASES == 144
    assert len({(case.status, case.output, case.error) for case in cases}) == 144
    assert len({case.name for case in cases}) == 144
    with pytest.raises(ValueError, match="144"):
        b1(144)


@pytest.mark.parametrize("number", [0, 21, 42, 67, 80, 99, 118, 143])
def test_a_case_of_b1_shows_what_it_says(number: int) -> None:
    case = b1(number)

    async def look(server: FaultServer) -> None:
        async with connected(server) as client:
            made = await submit(client, jsonl([line(row) for row in range(6)]))
            await asyncio.to_thread(server.ledger.wait_until, ended)
            shown = await client.batches.retrieve(made.id)
            assert shown.status == case.status
            for state, ident in ((case.output, shown.output_file_id), (case.error, shown.error_file_id)):
                if state in {"null", ""}:
                    assert ident == (None if state else "")
                elif state == "404":
                    with pytest.raises(openai.NotFoundError):
                        await client.files.content(ident or "none")
                else:
                    assert await lines_of(client, ident)

    with FaultServer(batches=f"b1:{number}", batch_time=0) as server:
        asyncio.run(look(server))


def ended(ledger: faultserver.Ledger) -> bool:
    return any(batch["status"] for batch in ledger.batches().values())


# What each name shows


@contextmanager
def first_batch(name: str, rows: int = 30) -> Iterator[tuple[FaultServer, Wire, str]]:
    """A server of that name with one batch that has ended, at which nobody has looked."""
    with FaultServer(batches=name, batch_time=0) as server:
        client = CarefulClient(server, rows)
        made = client._create()
        server.ledger.wait_until(ended)
        try:
            yield server, client.wire, made["id"]
        finally:
            client.wire.close()


def files_of(wire: Wire, ident: str) -> list[bytes]:
    batch = wire.json("GET", f"/v1/batches/{ident}")
    return [
        wire.ask("GET", f"/v1/files/{batch[name]}/content")[1] if batch[name] else b""
        for name in ("output_file_id", "error_file_id")
    ]


def test_an_expired_batch_has_its_paid_part_and_names_the_rest() -> None:
    with first_batch("expired:0.4") as (server, wire, ident):
        batch = wire.json("GET", f"/v1/batches/{ident}")
        assert (batch["status"], batch["request_counts"]) == (
            "expired",
            {"total": 30, "completed": 12, "failed": 18},
        )
        assert batch["expired_at"] is not None
        output, error = files_of(wire, ident)
        assert output.count(b"\n") == 12 == sum(server.ledger.executed.values())
        rest = [json.loads(one) for one in error.split(b"\n")[:-1]]
        assert {(one["response"], one["error"]["code"]) for one in rest} == {(None, "batch_expired")}


def test_error_lines_are_of_three_kinds_and_the_counts_hide_one() -> None:
    with first_batch("error-lines", rows=10) as (server, wire, ident):
        batch = wire.json("GET", f"/v1/batches/{ident}")
        assert batch["request_counts"] == {"total": 10, "completed": 8, "failed": 2}
        output, error = files_of(wire, ident)
        found = [json.loads(one) for one in error.split(b"\n")[:-1]]
        assert [one["response"]["status_code"] for one in found] == [500, 429, 0]
        assert found[2]["response"]["body"] == ""
        assert [one["error"] for one in found] == [None] * 3
        assert output.count(b"\n") == 7 == sum(server.ledger.executed.values())


def test_separators_stand_in_the_answers_as_they_are() -> None:
    with first_batch("unicode") as (_, wire, ident):
        output = files_of(wire, ident)[0]
        assert output.count("\u2028".encode()) == output.count("\u0085".encode()) == 30
        assert output.count(b"\n") == 30
        for one in output.split(b"\n")[:-1]:
            json.loads(one)


def test_rows_are_missing_doubled_unknown_and_shuffled() -> None:
    with first_batch("missing-row+doubled-row+unknown-row+shuffled") as (_, wire, ident):
        output, error = files_of(wire, ident)
        found = [json.loads(one)["custom_id"] for one in output.split(b"\n")[:-1]]
        assert len(found) == 29 + 1 + 3
        assert {None, 17, "nobody-asked"} <= set(found)
        assert "r15" not in found
        assert found.count("r0") == 2
        ours = [one for one in found if isinstance(one, str) and one.startswith("r")]
        assert ours != sorted(ours, key=lambda one: int(one[1:]))
        assert [json.loads(one)["custom_id"] for one in error.split(b"\n")[:-1]] == ["r1"]
        counts = wire.json("GET", f"/v1/batches/{ident}")["request_counts"]
        assert counts == {"total": 30, "completed": 30, "failed": 0}


def test_looks_flap_eight_times_and_then_tell_the_truth() -> None:
    with first_batch("flapping+counts-down") as (_, wire, ident):
        looks = [wire.json("GET", f"/v1/batches/{ident}") for _ in range(11)]
        assert [one["status"] for one in looks] == ["completed", "in_progress"] * 4 + ["completed"] * 3
        assert [one["request_counts"]["completed"] for one in looks] == [30, 15] * 5 + [30]


def test_a_young_batch_is_known_before_it_is_listed() -> None:
    with first_batch("list-lag:0.2") as (server, wire, ident):
        made = server.ledger.creates()[0]["t"]
        assert wire.json("GET", f"/v1/batches/{ident}")["id"] == ident
        while not (listed := wire.json("GET", "/v1/batches")["data"]):
            assert time.monotonic() < made + 5
        assert time.monotonic() > made + 0.2
        assert [one["id"] for one in listed] == [ident]


def test_polls_are_in_trouble_from_the_first_one_on() -> None:
    with first_batch("trouble:0.2") as (server, wire, ident):
        first = time.monotonic()
        assert wire.ask("GET", "/v1/batches")[0] == 500
        while wire.json("GET", f"/v1/batches/{ident}") is None:
            assert time.monotonic() < first + 5
        assert time.monotonic() > first + 0.2
        assert server.ledger.behaviours["500-server_error"] > 1


def test_a_batch_at_work_has_a_word_of_its_own() -> None:
    async def look(server: FaultServer) -> list[str]:
        async with connected(server) as client:
            made = await submit(client, jsonl([line(1)]))
            return [str(one.status) for one in await polled(client, made.id, "reticulating")]

    with FaultServer(batches="stuck+odd-word", batch_time=0) as server:
        assert asyncio.run(look(server))[-1] == "reticulating"


def test_a_failed_batch_names_its_second_line_or_the_queue() -> None:
    with first_batch("failed-validation:mismatched_model") as (_, wire, ident):
        (fault,) = wire.json("GET", f"/v1/batches/{ident}")["errors"]["data"]
        assert (fault["code"], fault["line"]) == ("mismatched_model", 2)
    with first_batch("queue-full:1") as (_, wire, ident):
        batch = wire.json("GET", f"/v1/batches/{ident}")
        (fault,) = batch["errors"]["data"]
        assert (batch["status"], fault["code"], fault["line"]) == ("failed", "token_limit_exceeded", None)


def test_a_download_is_cut_once_at_a_third() -> None:
    with first_batch("cut-download") as (server, wire, ident):
        batch = wire.json("GET", f"/v1/batches/{ident}")
        path = f"/v1/files/{batch['output_file_id']}/content"
        with pytest.raises(http.client.IncompleteRead) as cut:
            wire.ask("GET", path)
        whole = wire.ask("GET", path)[1]
        assert len(cut.value.partial) == len(whole) // 3
        assert whole == wire.ask("GET", path)[1]
        assert len(server.ledger.noted("downloaded")) == 3


def test_empty_ids_and_empty_files() -> None:
    with first_batch("empty-ids") as (_, wire, ident):
        assert wire.json("GET", f"/v1/batches/{ident}")["error_file_id"] == ""
    with first_batch("empty-error-file") as (_, wire, ident):
        batch = wire.json("GET", f"/v1/batches/{ident}")
        assert wire.ask("GET", f"/v1/files/{batch['error_file_id']}/content") == (200, b"")
    with first_batch("no-files") as (server, wire, ident):
        batch = wire.json("GET", f"/v1/batches/{ident}")
        assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("completed", None, None)
        assert batch["request_counts"]["completed"] == 30
        assert not server.ledger.executed


@pytest.mark.parametrize("state", ["validating", "in_progress", "finalizing"])
def test_a_stuck_batch_stays_where_it_is_until_it_is_cancelled(state: str) -> None:
    async def stay(server: FaultServer) -> None:
        async with connected(server) as client:
            made = await submit(client, jsonl([line(row) for row in range(10)]))
            await polled(client, made.id, state)
            for _ in range(5):
                assert (await client.batches.retrieve(made.id)).status == state
            await client.batches.cancel(made.id)
            assert (await polled(client, made.id))[-1].status == "cancelled"

    with FaultServer(batches=f"stuck:{state}", batch_time=0) as server:
        asyncio.run(stay(server))


def test_a_late_create_finds_its_input_deleted_and_costs_nothing() -> None:
    with FaultServer(batches="create-late:0.1", batch_time=0) as server:
        client = CarefulClient(server, 3)
        file = client._upload()
        asked = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        with pytest.raises(UNHEARD):
            client.wire.json("POST", "/v1/batches", json.dumps(asked).encode())
        assert client.wire.json("GET", "/v1/batches")["data"] == []
        assert client.wire.json("DELETE", f"/v1/files/{file}")["deleted"]
        server.ledger.wait_until(ended)
        client.wire.close()
        assert [one["status"] for one in server.ledger.batches().values()] == ["failed"]
        assert not server.ledger.executed


def test_a_create_that_is_repeated_blindly_is_seen_twice() -> None:
    with FaultServer(batches="create-lost-executed", batch_time=0) as server:
        client = CarefulClient(server, 3)
        asked = {"input_file_id": client._upload(), "endpoint": CHAT, "completion_window": "24h"}
        body = json.dumps(asked).encode()
        with pytest.raises(UNHEARD):
            client.wire.json("POST", "/v1/batches", body)
        client._ended(client.wire.json("POST", "/v1/batches", body)["id"])
        server.ledger.wait_until(lambda ledger: all(one["status"] for one in ledger.batches().values()))
        client.wire.close()
        assert len(server.ledger.creates()) == 2
        assert set(server.ledger.executed.values()) == {2}


def test_an_operation_fails_as_the_script_says() -> None:
    with FaultServer(script="at:batches.create:500+at:files.create:lost", batch_time=0) as server:
        client = CarefulClient(server, 3)
        client.run()
        assert len(client.answers) == 3
        assert len(server.ledger.noted("uploaded")) == 2
        assert server.ledger.behaviours["500-server_error"] == server.ledger.behaviours["lost"] == 1


@pytest.mark.parametrize(
    "name",
    [
        "",
        "plane",
        "expired",
        "expired:2",
        "queue-full",
        "list-lag:soon",
        "b1:144",
        "stuck:here",
        "plain*x",
        "b1",
    ],
)
def test_a_name_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="batches"):
        named_batches(name)


def test_a_process_counts_batches_in_its_ledger_file(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    tests = Path(faultserver.__file__).parent.parent
    command = [sys.executable, "-m", "faultserver", "--batches", "expired:0.5", "--batch-time", "0"]
    environment = {**os.environ, "PYTHONPATH": str(tests)}
    with subprocess.Popen(
        [*command, "--ledger", str(file)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2].removesuffix("/v1\n"))
        client = CarefulClient(type("Server", (), {"port": port})(), 4)
        client.run()
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    events = faultserver.read_ledger(file)
    assert len(faultserver.creates_in(events)) == len(faultserver.batches_in(events)) == 2
    ends = [(one["status"], one["lines"], one["done"]) for one in faultserver.batches_in(events).values()]
    assert ends == [("expired", 4, 2), ("completed", 2, 2)]
    assert faultserver.executions(file) == {sha_of(row): 1 for row in range(4)}
    executed = [one for one in events if one["event"] == "executed"]
    assert [one["custom_id"] for one in executed] == ["r0", "r1", "r2", "r3"]
