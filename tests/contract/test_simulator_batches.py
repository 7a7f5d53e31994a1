"""The simulator's files and batches, as the official SDK sees them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from simulated_batches import TERMINAL, create, line, lines_of, until, upload

from runner.simulator import Settings, Simulator


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(Settings(batch_time=0.2)) as running:
        yield running


@pytest.fixture
def client(simulator: Simulator) -> Iterator[Any]:
    with openai.OpenAI(api_key="x", base_url=simulator.url, max_retries=0) as sdk:
        yield sdk


def test_a_batch_goes_through_all_its_states(simulator: Simulator, client: Any) -> None:
    lines = [line(number) for number in range(120)]
    too_long = line(120, max_output_tokens=0)
    created = create(client, [*lines, too_long], metadata={"run": "a1"})
    assert created.status == "validating"
    assert created.metadata == {"run": "a1"}
    done, seen = until(client, created, TERMINAL)
    assert seen == ["validating", "in_progress", "finalizing", "completed"]
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 121, "completed": 120, "failed": 1}
    assert done.model == "gpt-6-luna"
    assert (done.completed_at or 0) >= (done.finalizing_at or 0) >= (done.in_progress_at or 0) > 0

    output = lines_of(client, done.output_file_id)
    ids = [one["custom_id"] for one in output]
    assert sorted(ids) == sorted(one["custom_id"] for one in lines)
    assert ids != [one["custom_id"] for one in lines]
    for one in output:
        assert one["error"] is None
        assert one["response"]["status_code"] == 200
        number = one["custom_id"].removeprefix("row-")
        assert f"Ticket {number}:" in one["response"]["body"]["output"][0]["content"][0]["text"]
    assert len({one["id"] for one in output}) == 120

    (error,) = lines_of(client, done.error_file_id)
    assert (error["custom_id"], error["error"]) == ("row-120", None)
    assert error["response"]["status_code"] == 400
    assert error["response"]["body"]["error"]["code"] == "integer_below_min_value"

    assert done.usage is not None
    usages = [one["response"]["body"]["usage"] for one in output]
    assert done.usage.total_tokens == sum(usage["total_tokens"] for usage in usages)
    book = simulator.ledger()
    assert book["executed"] == 120
    price = Decimal("0.05") * done.usage.input_tokens + Decimal("0.25") * done.usage.output_tokens
    assert Decimal(book["cost_usd"]) == price / 1_000_000
    # The same body asked online is the same body: the ledger sees it twice.
    client.responses.create(**lines[0]["body"])
    assert sorted(simulator.ledger()["executions"].values())[-2:] == [1, 2]


def test_batches_of_chat_and_embeddings(client: Any) -> None:
    chat = {"model": "sim-a", "messages": [{"role": "user", "content": "hello"}]}
    vector = {"model": "text-embedding-3-small", "input": ["a", "b"], "encoding_format": "base64"}
    for url, body in (("/v1/chat/completions", chat), ("/v1/embeddings", vector)):
        file_id = upload(client, [{"custom_id": "1", "method": "POST", "url": url, "body": body}])
        batch = client.batches.create(input_file_id=file_id, endpoint=url, completion_window="24h")
        done, _ = until(client, batch, TERMINAL)
        (answer,) = lines_of(client, done.output_file_id)
        assert done.error_file_id is None
        assert answer["response"]["body"] == client.post(url.removeprefix("/v1"), body=body, cast_to=object)


@pytest.mark.parametrize(
    ("bad", "code", "number", "param"),
    [
        (b"{nonsense", "invalid_json_line", 2, None),
        ({**line(1), "custom_id": None}, "missing_required_parameter", 2, "custom_id"),
        ({**line(1), "custom_id": "row-0"}, "duplicate_custom_id", 2, "custom_id"),
        ({**line(1), "method": "GET"}, "invalid_method", 2, "method"),
        ({**line(1), "url": "/v1/embeddings"}, "invalid_url", 2, "url"),
        (line(1, model="gpt-9"), "model_not_found", 2, "body.model"),
        (line(1, model="gpt-6-sol"), "mismatched_model", 2, "body.model"),
        (line(1, model=None), "invalid_request", 2, "body.model"),
        (line(1, input=None), "invalid_request", 2, "body.input"),
        (line(1, stream=True), "streaming_unsupported", 2, "body.stream"),
    ],
)
def test_bad_lines_fail_the_whole_batch(
    client: Any, bad: Any, code: str, number: int, param: str | None
) -> None:
    done, seen = until(client, create(client, [line(0), bad]), TERMINAL)
    assert seen == ["validating", "failed"]
    assert done.errors is not None
    assert done.errors.data is not None
    (error,) = done.errors.data
    assert (error.code, error.line, error.param) == (code, number, param)
    assert done.output_file_id is None
    with pytest.raises(openai.ConflictError) as refused:
        client.batches.cancel(done.id)
    assert refused.value.body["message"] == "Cannot cancel a batch with status 'failed'."


def test_a_file_that_is_not_there_fails_the_batch_later(client: Any) -> None:
    batch = client.batches.create(
        input_file_id="file-none", endpoint="/v1/responses", completion_window="24h"
    )
    done, _ = until(client, batch, TERMINAL)
    assert done.status == "failed"
    assert done.errors is not None
    assert done.errors.data is not None
    assert done.errors.data[0].param == "file_id"
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.create(input_file_id="x", endpoint="/v1/audio", completion_window="24h")
    assert (refused.value.code, refused.value.param) == ("invalid_value", "endpoint")


def test_cancelling_keeps_what_is_answered() -> None:
    with (
        Simulator(Settings(batch_time=3)) as running,
        openai.OpenAI(api_key="x", base_url=running.url, max_retries=0) as client,
    ):
        batch = create(client, [line(number) for number in range(400)])
        pause = threading.Event()
        while not (batch.request_counts and batch.request_counts.completed):
            pause.wait(0.01)
            batch = client.batches.retrieve(batch.id)
        assert client.batches.cancel(batch.id).status == "cancelling"
        done, seen = until(client, batch, TERMINAL)
        assert seen[-1] == "cancelled"
        assert done.cancelled_at
        kept, dropped = lines_of(client, done.output_file_id), lines_of(client, done.error_file_id)
        assert len(kept) == running.ledger()["executed"] > 0
        assert len(kept) + len(dropped) == 400
        assert {one["error"]["code"] for one in dropped} == {"batch_cancelled"}
        assert dropped[0]["response"] is None
        assert client.batches.cancel(batch.id).status == "cancelled"


def test_batches_are_listed_newest_first_in_pages(client: Any) -> None:
    made = [create(client, [line(0)]).id for _ in range(5)]
    first = client.batches.list(limit=2)
    assert [batch.id for batch in first.data] == made[:2:-1]
    assert first.has_more
    assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")
    with pytest.raises(openai.BadRequestError):
        client.batches.list(limit=101)


def test_files_come_back_as_they_went_up(client: Any) -> None:
    data = json.dumps(line(0)).encode() + b"\n" + '{"text": "\u2028 é"}\n'.encode()
    stored = client.files.create(
        file=("rows.jsonl", data), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (stored.filename, stored.bytes, stored.purpose) == ("rows.jsonl", len(data), "batch")
    assert stored.expires_at == stored.created_at + 3600
    other = client.files.create(file=("notes.txt", b"words"), purpose="user_data")
    assert other.expires_at is None
    assert client.files.content(stored.id).read() == data
    assert client.files.retrieve(stored.id) == stored
    assert [one.id for one in client.files.list()] == [other.id, stored.id]
    assert [one.id for one in client.files.list(purpose="batch", order="asc")] == [stored.id]
    assert client.files.delete(stored.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(stored.id)


@pytest.mark.parametrize(("name", "data"), [("rows.json", b"{}\n"), ("rows.jsonl", b"nonsense\n{}\n")])
def test_uploads_that_are_no_jsonl_are_refused(client: Any, name: str, data: bytes) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=(name, data), purpose="batch")
    message = refused.value.body["message"]
    assert message == "Invalid file format for Batch API. Must be .jsonl"
    assert list(client.files.list()) == []


def test_answers_in_a_batch_meet_the_faults_that_a_line_can_have() -> None:
    with (
        Simulator(Settings(batch_time=0.05, faults="500=0.3,length=0.3,lost=0.3")) as running,
        openai.OpenAI(api_key="x", base_url=running.url, max_retries=0) as client,
    ):
        done, _ = until(client, create(client, [line(number) for number in range(60)]), TERMINAL)
        failed = lines_of(client, done.error_file_id)
        answered = lines_of(client, done.output_file_id)
        assert {one["response"]["status_code"] for one in failed} == {500}
        assert {one["response"]["body"]["status"] for one in answered} == {"completed", "incomplete"}
        assert len(failed) + len(answered) == 60
        assert "lost" not in running.ledger()["faults"]
