"""The faults that uploads, creations, cancellations, lists, polls and downloads meet at the simulator."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest
from simulated_batches import TERMINAL, Clock, create, line, simulated, until, upload

from runner.simulator.faults import (
    BATCH_FAULTS,
    CANCEL,
    CREATE,
    DOWNLOAD,
    LIST,
    LISTED,
    POLL,
    PROCESSED,
    UPLOAD,
)

LINES = [line(number) for number in range(30)]
# What the client of a failed request sees: a status, or None where no answer comes.
UPLOADS = {
    "upload-reset": None,
    "upload-lost": None,
    "upload-500": 500,
    "upload-500-kept": 500,
    "upload-429": 429,
    "upload-hang": None,
}
CREATIONS = {
    "create-reset": None,
    "create-lost": None,
    "create-late": None,
    "create-500": 500,
    "create-500-made": 500,
    "create-truncated": None,
    "create-hang": None,
    "create-429": 429,
    "create-tokens": 400,
    "create-money": 429,
}
CANCELLATIONS = {"cancel-reset": None, "cancel-lost": None, "cancel-500": 500}
LISTS = {"list-500": 500, "list-429": 429, "list-reset": None, "list-none": 404}
POLLS = {"poll-404": 404, "poll-429": 429, "poll-500": 500, "poll-reset": None, "poll-hang": None}
DOWNLOADS = {"download-reset": None, "download-404": 404, "download-403": 403, "download-500": 500}


def status_of(ask: Callable[[], Any]) -> int | None:
    """The error status of a request that must fail, or None where no whole answer comes."""
    with pytest.raises((openai.APIConnectionError, openai.APIStatusError, httpx2.TransportError)) as failed:
        ask()
    return getattr(failed.value, "status_code", None)


def patience(name: str) -> float:
    """How long, in seconds, the client waits for an answer."""
    return 0.5 if name in ("upload-hang", "create-hang", "poll-hang", "download-stall") else 30


def batch_of(client: Any, file_id: str, timeout: float = 30) -> Any:
    return client.batches.create(
        input_file_id=file_id, endpoint="/v1/responses", completion_window="24h", timeout=timeout
    )


def test_each_fault_of_a_request_is_tested_here() -> None:
    kinds = (UPLOAD, CREATE, CANCEL, LIST, LISTED, PROCESSED, POLL, DOWNLOAD)
    tables = UPLOADS | CREATIONS | CANCELLATIONS | LISTS | POLLS | DOWNLOADS
    alone = {"create-html", "list-lag", "list-empty", "list-overlap", "file-late", "poll-outage", "poll-html"}
    odd = {"poll-flap", "poll-unknown", "poll-counts-down", "poll-counts-null"}
    files = {"download-cut", "download-short", "download-long", "download-stall", "download-gzip"}
    known = {name for name, fault in BATCH_FAULTS.items() if fault.form in kinds}
    assert known == tables.keys() | alone | odd | files


@pytest.mark.parametrize("name", UPLOADS)
def test_an_upload_that_fails_is_kept_or_not(name: str) -> None:
    with simulated(f"{name}=1@first") as (simulator, client):
        impatient = client.with_options(timeout=patience(name))
        assert status_of(lambda: upload(impatient, LINES)) == UPLOADS[name]
        kept = [file.id for file in client.files.list(purpose="batch")]
        assert len(kept) == int(BATCH_FAULTS[name].executed)
        again = upload(client, LINES)
        assert [file.id for file in client.files.list(purpose="batch")] == [again, *kept]
        book = simulator.ledger()
        assert book["faults"] == {name: 1}
        data = client.files.content(again).read()
        assert {entry["sha256"] for entry in book["files"]} == {hashlib.sha256(data).hexdigest()}
        client.files.delete(again)
        assert [entry["deleted"] for entry in simulator.ledger()["files"]] == [False] * len(kept) + [True]


@pytest.mark.parametrize("name", [name for name in CREATIONS if name != "create-late"])
def test_a_creation_that_fails_makes_a_batch_or_not(name: str) -> None:
    with simulated(f"{name}=1@first") as (simulator, client):
        file_id = upload(client, LINES)
        assert status_of(lambda: batch_of(client, file_id, patience(name))) == CREATIONS[name]
        made = client.batches.list().data
        assert [batch.input_file_id for batch in made] == [file_id] * int(BATCH_FAULTS[name].executed)
        assert until(client, batch_of(client, file_id), TERMINAL)[0].status == "completed"
        assert len(simulator.ledger()["batches"]) == 1 + len(made)


def test_a_creation_answered_by_a_page_of_html_is_made() -> None:
    with simulated("create-html=1") as (_, client):
        answer = client.batches.with_raw_response.create(
            input_file_id=upload(client, LINES), endpoint="/v1/responses", completion_window="24h"
        )
        assert answer.headers["content-type"].startswith("text/html")
        assert len(client.batches.list().data) == 1


def test_refused_creations_say_why() -> None:
    codes = {"create-429": "rate_limit_exceeded", "create-tokens": "token_limit_exceeded"}
    for name, code in {**codes, "create-money": "insufficient_quota"}.items():
        with simulated(f"{name}=1") as (_, client), pytest.raises(openai.APIStatusError) as refused:
            create(client, LINES)
        assert refused.value.code == code


def test_a_creation_that_comes_late_is_made_after_its_connection_was_cut() -> None:
    with simulated("create-late:0.5=1@first", batch_time=0) as (simulator, client):
        file_id = upload(client, LINES)
        assert status_of(lambda: batch_of(client, file_id)) is None
        assert client.batches.list().data == []
        pause = threading.Event()
        while not simulator.ledger()["batches"]:
            pause.wait(0.01)
        (batch,) = client.batches.list().data
        assert batch.input_file_id == file_id
        assert until(client, batch, TERMINAL)[0].status == "completed"


def test_a_late_creation_whose_file_was_deleted_meanwhile_fails() -> None:
    with simulated("create-late:0.5=1", batch_time=0) as (simulator, client):
        file_id = upload(client, LINES)
        assert status_of(lambda: batch_of(client, file_id)) is None
        client.files.delete(file_id)
        pause = threading.Event()
        while not simulator.ledger()["batches"]:
            pause.wait(0.01)
        done, _ = until(client, client.batches.list().data[0], TERMINAL)
        assert (done.status, done.errors.data[0].param) == ("failed", "file_id")
        assert simulator.ledger()["executed"] == 0


@pytest.mark.parametrize("name", CANCELLATIONS)
def test_a_cancellation_that_fails_is_taken_or_not(name: str) -> None:
    with simulated(f"{name}=1@first", batch_time=30) as (_, client):
        batch = create(client, LINES)
        assert status_of(lambda: client.batches.cancel(batch.id)) == CANCELLATIONS[name]
        taken = client.batches.retrieve(batch.id).status == "cancelling"
        assert taken == BATCH_FAULTS[name].executed
        assert client.batches.cancel(batch.id).status == "cancelling"


def test_lists_that_lag_show_a_batch_and_its_file_only_later() -> None:
    clock = Clock()
    with simulated("list-lag:60=1", batch_time=0, clock=clock) as (_, client):
        batch = create(client, LINES)
        assert client.batches.retrieve(batch.id).id == batch.id
        assert client.files.retrieve(batch.input_file_id).id == batch.input_file_id
        assert (client.batches.list().data, client.files.list().data) == ([], [])
        clock.now += 59.9
        assert (client.batches.list().data, client.files.list(purpose="batch").data) == ([], [])
        clock.now += 0.1
        assert [one.id for one in client.batches.list()] == [batch.id]
        assert [one.id for one in client.files.list(purpose="batch")] == [batch.input_file_id]


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_fails(name: str) -> None:
    with simulated(f"{name}=1@first", batch_time=0) as (_, client):
        batch = create(client, LINES)
        assert status_of(client.batches.list) == LISTS[name]
        assert [one.id for one in client.batches.list()] == [batch.id]
        assert status_of(client.files.list) == LISTS[name]


def test_lists_that_are_empty_or_overlap() -> None:
    with simulated("list-empty=1@first", batch_time=0) as (_, client):
        create(client, LINES)
        assert client.batches.list().data == []
        assert len(client.batches.list().data) == 1
    with simulated("list-overlap=1", batch_time=0) as (_, client):
        made = [create(client, [line(number)]).id for number in range(5)][::-1]
        assert [one.id for one in client.batches.list(limit=2)] == [*made[:2], *made[1:4], *made[3:]]


def test_an_upload_is_processed_late() -> None:
    clock = Clock()
    with simulated("file-late:60=1", batch_time=0, clock=clock) as (_, client):
        file_id = upload(client, LINES)
        assert client.files.retrieve(file_id).status == "uploaded"
        clock.now += 60
        assert client.files.retrieve(file_id).status == "processed"


@pytest.mark.parametrize("name", POLLS)
def test_a_poll_that_fails_once(name: str) -> None:
    with simulated(f"{name}=1@first") as (_, client):
        batch = create(client, LINES)
        assert status_of(lambda: client.batches.retrieve(batch.id, timeout=patience(name))) == POLLS[name]
        assert until(client, batch, TERMINAL)[0].status == "completed"


def test_polls_fail_for_as_long_as_an_outage_lasts() -> None:
    clock = Clock()
    with simulated("poll-outage:3600=1", batch_time=0, clock=clock) as (_, client):
        batch = create(client, LINES)
        for seconds in (0, 1800, 1799):
            clock.now += seconds
            assert status_of(lambda: client.batches.retrieve(batch.id)) == 500
        clock.now += 1
        assert until(client, batch, TERMINAL)[0].status == "completed"


def test_polls_that_tell_stories() -> None:
    with simulated("poll-html=1@first", batch_time=0) as (_, client):
        batch = create(client, LINES)
        answer = client.batches.with_raw_response.retrieve(batch.id)
        assert answer.headers["content-type"].startswith("text/html")
    with simulated("poll-unknown=1@first", batch_time=0) as (_, client):
        assert client.batches.retrieve(create(client, LINES).id).status == "reticulating"
    with simulated("poll-counts-null=1@first", batch_time=0) as (_, client):
        assert client.batches.retrieve(create(client, LINES).id).request_counts is None


def test_polls_that_go_back() -> None:
    with simulated("poll-flap=0.5", batch_time=0) as (_, client):
        batch = create(client, LINES)
        until(client, batch, {"completed"})
        seen = [client.batches.retrieve(batch.id) for _ in range(40)]
        assert {one.status for one in seen} == {"completed", "in_progress"}
        assert {one.output_file_id is None for one in seen if one.status == "in_progress"} == {True}
    with simulated("poll-counts-down=0.5", batch_time=0) as (_, client):
        batch = create(client, LINES)
        until(client, batch, {"completed"})
        seen = [client.batches.retrieve(batch.id) for _ in range(40)]
        assert {one.request_counts.completed for one in seen} == {30, 15}


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_download_that_is_refused_once(name: str) -> None:
    with simulated(f"{name}=1@first", batch_time=0) as (_, client):
        done, _ = until(client, create(client, LINES), TERMINAL)
        assert status_of(lambda: client.files.content(done.output_file_id).read()) == DOWNLOADS[name]
        assert client.files.content(done.output_file_id).read().count(b"\n") == 30


def test_downloads_that_come_in_part_or_in_another_form() -> None:
    whole: dict[str, bytes] = {}
    for name in ("download-cut:0.25", "download-stall", "download-long", "download-short", "download-gzip"):
        with simulated(f"{name}=1@first", batch_time=0) as (_, client):
            done, _ = until(client, create(client, LINES), TERMINAL)
            manner = name.partition(":")[0]
            got, length = b"", ""
            try:
                streaming = client.with_options(timeout=patience(manner)).files.with_streaming_response
                with streaming.content(done.output_file_id) as answer:
                    length = answer.headers["content-length"]
                    for piece in answer.iter_bytes():
                        got += piece
                broken = False
            except httpx2.TransportError:
                broken = True
            sound = whole[manner] = client.files.content(done.output_file_id).read()
            assert broken == (manner in ("download-cut", "download-stall", "download-long"))
            share = {"download-cut": 0.25, "download-stall": 1 / 3, "download-short": 1 / 3}.get(manner, 1)
            assert got == sound[: int(len(sound) * share)]
            assert int(length) > len(sound) if manner == "download-long" else int(length) <= len(sound)
    assert len(set(whole.values())) == 1
