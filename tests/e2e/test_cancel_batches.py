"""`runner cancel` while batches are out: nothing more is submitted, what they did is kept, and paid once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import read_jsonl
from e2e.in_place import InPlace, in_place
from faultserver import FaultServer

from runner.store import runs
from runner.store.database import Store

ROWS = 20


@pytest.fixture
def here(tmp_path: Path, store: Path, empty_store: Path) -> Iterator[InPlace]:
    with in_place(tmp_path, store, empty_store) as made:
        yield made


def run_words(requests: Path, *more: str, poll: str = "0.1s") -> list[Any]:
    return ["run", requests, "--mode", "batch", "-o", "out.jsonl", "--poll", poll, *more]


def leave_out(here: InPlace, requests: Path, *more: str) -> None:
    """Submit the batch, and do not wait for it."""
    assert here(*run_words(requests, "--no-wait", *more, poll="5s")).code == 75


def state_of(store: Path) -> str:
    with Store.read_only(str(store)) as kept, kept.read() as connection:
        return runs.find(connection, "last").state


def finish(here: InPlace, server: FaultServer, requests: Path, tmp_path: Path) -> None:
    """The same command finishes the run, each row answered and paid once."""
    assert here(*run_words(requests)).code == 0
    lines = read_jsonl(tmp_path / "out.jsonl")
    assert [line["custom_id"] for line in lines] == [f"r{n}" for n in range(1, ROWS + 1)]
    assert all(line["error"] is None for line in lines)
    assert max(server.ledger.executed.values()) == 1
    assert len(server.ledger.executed) == ROWS


def at_work(ledger: Any) -> bool:
    return sum(ledger.executed.values()) > 0


def test_a_batch_that_nobody_waits_for_is_cancelled_and_what_it_did_kept(
    here, requests_file, store, tmp_path
) -> None:
    server, requests = here.serve("stuck"), requests_file(ROWS)
    leave_out(here, requests)
    server.ledger.wait_until(at_work)

    ended = here("cancel", "last", "--poll", "0.1s")

    assert ended.code == 0, ended.err
    assert "1 batch was called off (20 rows). 4 of these rows were answered first, and are kept." in ended.err
    assert "16 rows are left; the same command goes on" in ended.err
    [batch] = server.ledger.batches().values()
    assert (batch["status"], batch["done"]) == ("cancelled", 4)
    assert state_of(store) == "cancelled"
    again = here("cancel", "last", env={"OPENAI_API_KEY": None})
    assert (again.code, "nothing to stop" in again.err) == (0, True)
    finish(here, server, requests, tmp_path)
    assert [one["lines"] for one in server.ledger.batches().values()] == [20, 16]


def test_without_waiting_it_asks_the_batch_to_end_and_takes_it_in_the_next_time(
    here, requests_file, store, tmp_path
) -> None:
    server, requests = here.serve("stuck", batch_time=4.0), requests_file(ROWS)
    leave_out(here, requests)
    server.ledger.wait_until(at_work)

    ended = here("cancel", "last", "--no-wait")

    assert ended.code == 75
    assert "1 batch of run" in ended.err
    assert "again takes in what they did" in ended.err
    assert len(server.ledger.noted("cancelled")) == 1
    assert state_of(store) == "active"
    server.ledger.wait_until(lambda ledger: ledger.noted("ended"))
    ended = here("cancel", "last", "--no-wait", "--json")
    assert ended.code == 0
    assert ended.events[-1]["event"] == "cancelled"
    assert state_of(store) == "cancelled"
    assert len(server.ledger.creates()) == 1


def test_the_process_that_runs_it_cancels_its_batch_and_takes_in_what_it_did(
    cli, here, requests_file, tmp_path
) -> None:
    server, requests = here.serve("stuck"), requests_file(ROWS)
    running = cli.start(*run_words(requests), env={"OPENAI_BASE_URL": server.url})
    server.ledger.wait_until(at_work)

    told = here("cancel", "last", env={"OPENAI_API_KEY": None})

    assert told.code == 0
    assert "was asked to stop (process" in told.err
    assert "It cancels its batches" in told.err
    ended = running.wait()
    assert ended.code == 4
    assert "Stopped by `runner cancel`" in ended.err
    assert [one["status"] for one in server.ledger.batches().values()] == ["cancelled"]
    finish(here, server, requests, tmp_path)


def test_a_batch_of_unknown_fate_is_found_and_cancelled(here, requests_file, store, tmp_path) -> None:
    server, requests = here.serve("create-lost-executed+list-lag:2+stuck"), requests_file(ROWS)
    leave_out(here, requests, "--quarantine", "7s")
    assert len(server.ledger.creates()) == 1

    ended = here("cancel", "last", "--poll", "0.1s", "--quarantine", "7s")

    assert ended.code == 0, ended.err
    assert "whether it was created is not known" in ended.err
    assert [one["status"] for one in server.ledger.batches().values()] == ["cancelled"]
    finish(here, server, requests, tmp_path)


def test_a_batch_that_never_came_to_be_is_dissolved(here, requests_file, store, tmp_path) -> None:
    server, requests = here.serve("create-lost"), requests_file(ROWS)
    leave_out(here, requests, "--quarantine", "7s")

    ended = here("cancel", "last", "--quarantine", "0.6s")

    assert ended.code == 0, ended.err
    assert "0 of these rows were answered first, and are kept. 20 rows are left" in ended.err
    assert server.ledger.creates() == []
    assert state_of(store) == "cancelled"
    finish(here, server, requests, tmp_path)


def test_a_batch_that_has_ended_before_is_taken_in(here, requests_file, store, tmp_path) -> None:
    server, requests = here.serve("plain", batch_time=0.5), requests_file(ROWS)
    leave_out(here, requests)
    server.ledger.wait_until(lambda ledger: ledger.noted("ended"))

    ended = here("cancel", "last")

    assert ended.code == 0, ended.err
    assert "20 of these rows were answered first" in ended.err
    assert "No row is left to ask: the same command writes the output." in ended.err
    assert server.ledger.noted("cancelled") == []
    finish(here, server, requests, tmp_path)
    assert len(server.ledger.creates()) == 1


def test_interrupted_it_says_that_the_same_goes_on(cli, here, requests_file) -> None:
    server, requests = here.serve("stuck", batch_time=20), requests_file(ROWS)
    leave_out(here, requests)
    running = cli.start("cancel", "last", env={"OPENAI_BASE_URL": server.url})
    server.ledger.wait_until(lambda ledger: ledger.noted("cancelled"))

    running.send(signal.SIGTERM)

    ended = running.wait()
    assert ended.code == 4
    assert "`runner cancel" in ended.err


def test_only_who_has_the_key_can_call_a_batch_off(here, requests_file) -> None:
    here.serve("stuck")
    leave_out(here, requests_file(ROWS))

    elsewhere = here(
        "cancel", "last", "--base-url", "https://api.openai.com/v1", env={"OPENAI_API_KEY": None}
    )

    assert elsewhere.code == 2
    assert "belongs to openai at http://127.0.0.1" in elsewhere.err
