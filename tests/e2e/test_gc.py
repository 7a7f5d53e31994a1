"""`runner gc`: what runs have left at the provider goes, and nothing that anybody may still need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from e2e.conftest import request_line
from e2e.in_place import InPlace, in_place
from faultserver import FaultServer, named_batches, server_error

ROWS = 6


@pytest.fixture
def cli(tmp_path: Path, store: Path, empty_store: Path) -> Iterator[InPlace]:
    with in_place(tmp_path, store, empty_store) as made:
        yield made


def client_of(server: FaultServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="sk-test", max_retries=0)


def upload(server: FaultServer, name: str, *, batch: dict[str, str] | None = None) -> tuple[str, str]:
    """A file put there by hand, and a batch of it with that metadata; both ids."""
    content = orjson.dumps(request_line(1)) + b"\n"
    with client_of(server) as client:
        file = client.files.create(file=(name, content), purpose="batch").id
        if batch is None:
            return file, ""
        made = client.batches.create(
            input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h", metadata=batch
        )
    server.ledger.wait_until(lambda ledger: ledger.batches()[made.id]["status"] is not None)
    return file, made.id


def names(server: FaultServer) -> set[str]:
    """The names of all files at the server."""
    with client_of(server) as client:
        return {one.filename for one in client.files.list()}


def run(cli: InPlace, requests: Any, *more: str, code: int = 0) -> None:
    words = ["run", requests, "--mode", "batch", "-o", "out.jsonl", *more]
    assert cli(*words).code == code


ORPHAN = "runner_abcdefghjk_0123abcd_1_0123456789abcdef.jsonl"


def test_it_lists_what_can_go_and_deletes_it_only_when_told_to(cli, requests_file) -> None:
    server = cli.serve("error-lines")
    run(cli, requests_file(ROWS), "--poll", "0.1s")
    upload(server, ORPHAN)
    upload(server, "mine.jsonl", batch={})
    before = names(server)

    listed = cli("gc", "--older-than", "0", "--json")

    assert listed.code == 0
    kinds = sorted(one["kind"] for one in listed.json["files"])
    assert kinds == ["error", "input", "input", "input", "output", "output"]
    assert all(one["bytes"] > 0 for one in listed.json["files"])
    assert {one["why"] for one in listed.json["files"]} == {
        "its results are in the store",
        "no batch was made of it",
    }
    assert (listed.json["deleted"], names(server)) == ([], before)

    told = cli("gc", "--older-than", "0")
    assert "Nothing was deleted: --yes does it." in told.err
    assert told.out.count(b"its results are in the store") == 5
    assert names(server) == before

    assert "6 files deleted." in cli("gc", "--older-than", "0", "--yes").err
    # What remains is the stranger's: his input, and what his batch wrote.
    left = names(server)
    assert {one for one in left if not one.startswith("batch_")} == {"mine.jsonl"}
    assert len(left) == 2
    assert "No leftover files." in cli("gc", "--older-than", "0", "--yes").err


def test_what_is_young_stays(cli, requests_file) -> None:
    server = cli.serve()
    run(cli, requests_file(ROWS), "--poll", "0.1s")
    before = names(server)

    told = cli("gc", "--yes")

    assert told.code == 0
    assert "2 files of runner's stay: it is not old enough" in told.err
    assert names(server) == before


def test_the_files_of_a_batch_that_is_out_stay(cli, requests_file) -> None:
    server = cli.serve("stuck")
    run(cli, requests_file(ROWS), "--no-wait", code=75)

    told = cli("gc", "--older-than", "0", "--foreign", "--yes")
    from_nowhere = cli("gc", "--older-than", "0", "--foreign", "--yes", "--store", "other.db")

    assert "1 file of runner's stay: a batch of this store is out." in told.err
    assert "1 file of runner's stay: its batch has not ended." in from_nowhere.err
    assert server.ledger.noted("deleted") == []


def test_results_that_the_store_has_not_taken_in_stay(cli, requests_file) -> None:
    server = cli.serve("plain", batch_time=0.5)
    run(cli, requests_file(ROWS), "--no-wait", code=75)
    server.ledger.wait_until(lambda ledger: ledger.noted("ended"))

    told = cli("gc", "--older-than", "0", "--foreign", "--yes")

    assert "1 file of runner's stay: its results are not in this store yet." in told.err
    assert "a batch of this store is out" in told.err
    assert server.ledger.noted("deleted") == []


def test_the_files_of_other_stores_go_only_when_asked_for(cli, requests_file) -> None:
    server = cli.serve()
    run(cli, requests_file(ROWS), "--poll", "0.1s")

    elsewhere = ["gc", "--older-than", "0", "--yes", "--store", "other.db"]
    told = cli(*elsewhere)
    assert "2 files of runner's stay: its batch is of no run in this store (--foreign)." in told.err
    assert server.ledger.noted("deleted") == []

    assert "2 files deleted." in cli(*elsewhere, "--foreign").err
    assert names(server) == set()


def test_a_batch_of_somebody_elses_protects_a_file_with_a_name_like_ours(cli) -> None:
    server = cli.serve()
    upload(server, ORPHAN, batch={"tool": "another"})

    told = cli("gc", "--older-than", "0", "--foreign", "--yes")

    assert "1 file of runner's stay: its batch is not one of runner's." in told.err
    assert ORPHAN in names(server)


def test_a_list_that_is_cut_deletes_nothing(cli) -> None:
    server = cli.serve("trouble:30")
    upload(server, ORPHAN)

    told = cli("gc", "--older-than", "0", "--yes")

    assert told.code == 75
    assert "could not be listed to its end, and nothing was deleted" in told.err
    assert ORPHAN in names(server)


def test_what_could_not_be_deleted_is_told_and_can_be_the_next_time(cli) -> None:
    faults = named_batches("plain")
    for _ in range(3):
        faults = faults.with_fate("files.delete", server_error())
    server = cli.serve(faults)
    upload(server, ORPHAN)

    told = cli("gc", "--older-than", "0", "--yes")

    assert told.code == 75
    assert "1 file could not be deleted." in told.err
    assert ORPHAN in names(server)
    assert "1 file deleted." in cli("gc", "--older-than", "0", "--yes").err


def test_lines_that_belong_to_no_row_are_listed_and_stay(cli, requests_file, store) -> None:
    cli.serve("unknown-row")
    run(cli, requests_file(ROWS), "--poll", "0.1s")

    listed = cli("gc", "--older-than", "0", "--yes", "--json")

    [kept] = listed.json["unmatched"]
    assert kept["path"].startswith(f"{store}.d/unmatched/")
    assert kept["bytes"] > 0
    assert len(listed.json["deleted"]) == 2
