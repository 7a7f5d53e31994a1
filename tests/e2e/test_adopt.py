"""A store that is lost: its batches are not submitted again by mistake, and `runner adopt` takes them over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from e2e.conftest import Ended, read_jsonl, request_line, write_jsonl
from e2e.in_place import InPlace, in_place
from faultserver import BatchFaults, FaultServer, named_batches, server_error
from faultserver.behaviour import OK

ROWS = 20


@pytest.fixture
def cli(tmp_path: Path, store: Path, empty_store: Path) -> Iterator[InPlace]:
    with in_place(tmp_path, store, empty_store) as made:
        yield made


def run(cli: InPlace, requests: Path, *more: str) -> Ended:
    """One start, which waits for nothing."""
    return cli("run", requests, "--mode", "batch", "-o", "out.jsonl", "--no-wait", *more)


def until_ended(server: FaultServer, count: int = 1) -> None:
    server.ledger.wait_until(lambda ledger: len(ledger.noted("ended")) == count)


def finish(cli: InPlace, server: FaultServer, requests: Path, rows: int = ROWS) -> None:
    """The same command, until it has finished the run, each row answered and paid once."""
    ended = cli("run", requests, "--mode", "batch", "-o", "out.jsonl", "--poll", "0.1s")
    assert ended.code == 0, ended.err
    lines = read_jsonl(requests.parent / "out.jsonl")
    assert [line["custom_id"] for line in lines] == [f"r{n}" for n in range(1, rows + 1)]
    assert all(line["error"] is None for line in lines)
    assert (max(server.ledger.executed.values()), len(server.ledger.executed)) == (1, rows)


def delete_files(server: FaultServer, *purposes: str) -> None:
    with openai.OpenAI(base_url=server.url, api_key="sk-test", max_retries=0) as client:
        for file in list(client.files.list()):
            if file.purpose in purposes:
                client.files.delete(file.id)


def lists_of(server: FaultServer) -> int:
    """How often the batches were listed."""
    return sum(one.method == "GET" and one.path == "/v1/batches" for one in server.ledger.arrivals)


def test_a_new_store_does_not_submit_again_what_is_at_the_provider(cli, requests_file) -> None:
    server, requests = cli.serve("stuck*2"), requests_file(ROWS)
    assert run(cli, requests).code == 75
    assert lists_of(server) == 1
    assert run(cli, requests).code == 75
    assert lists_of(server) == 1
    cli.lose_store()

    refused = run(cli, requests)

    assert refused.code == 78
    assert "1 batch of this job over this input is at http://127.0.0.1" in refused.err
    assert "20 requests, the newest from" in refused.err
    assert f"`runner adopt {requests}` takes over what is there" in refused.err
    assert len(server.ledger.creates()) == 1
    assert run(cli, requests, "--fresh").code == 75
    assert len(server.ledger.creates()) == 2


@pytest.mark.parametrize("faults", ["no list", "other job"])
def test_a_run_begins_where_nothing_speaks_against_it(cli, requests_file, faults) -> None:
    server = cli.serve(named_batches("stuck*2").with_fate("batches.list", server_error()))
    assert run(cli, requests_file(ROWS, name="other.jsonl")).code == 75
    if faults == "no list":
        cli.lose_store()
        server = cli.serve(_without_lists())
    assert run(cli, requests_file(ROWS - 1)).code == 75
    assert len(server.ledger.creates()) == (2 if faults == "other job" else 1)


def _without_lists() -> BatchFaults:
    faults = named_batches("stuck")
    for _ in range(3):
        faults = faults.with_fate("batches.list", server_error())
    return faults


def test_a_batch_that_is_out_is_taken_over_and_collected(cli, requests_file) -> None:
    server, requests = cli.serve("plain", batch_time=4.0), requests_file(ROWS)
    assert run(cli, requests).code == 75
    cli.lose_store()

    adopted = cli("adopt", requests)

    assert adopted.code == 0, adopted.err
    assert "1 batch of run" in adopted.err
    assert "with 20 rows. 0 are answered; 20 are out in 1 batch." in adopted.err
    assert "there is no batch to take over" in cli("adopt", requests).err
    finish(cli, server, requests)
    assert len(server.ledger.creates()) == 1


def test_ended_and_waiting_batches_with_the_same_rows_are_taken_over_in_their_order(
    cli, requests_file
) -> None:
    server, requests = cli.serve("expired:0.4+stuck", batch_time=0.3), requests_file(ROWS)
    assert run(cli, requests).code == 75
    until_ended(server)
    assert run(cli, requests).code == 75
    assert len(server.ledger.creates()) == 2
    cli.lose_store()

    adopted = cli("adopt", requests, "--json")

    assert adopted.code == 0, adopted.err
    told = adopted.events[-1]
    assert (told["event"], told["batches"], told["rows"]) == ("adopted", 2, 32)
    assert told["answered"] + told["rows_out"] == 20
    assert (told["answered"], told["rows_left"]) == (8, 0)
    assert cli("cancel", "last", "--poll", "0.1s").code == 0
    finish(cli, server, requests)
    assert [one["lines"] for one in server.ledger.batches().values()] == [20, 12, 9]


def test_without_the_input_file_the_results_say_whose_rows_they_are(cli, requests_file) -> None:
    server, requests = cli.serve("error-lines"), requests_file(ROWS)
    assert run(cli, requests).code == 75
    until_ended(server)
    cli.lose_store()
    delete_files(server, "batch")

    adopted = cli("adopt", requests, "--json").events[-1]

    assert (adopted["rows"], adopted["batches_out"], adopted["files_gone"]) == (20, 0, [])
    assert adopted["answered"] + adopted["rows_left"] == 20
    finish(cli, server, requests)


def test_where_all_files_are_gone_it_says_so(cli, requests_file) -> None:
    server, requests = cli.serve(), requests_file(ROWS)
    assert run(cli, requests).code == 75
    until_ended(server)
    cli.lose_store()
    delete_files(server, "batch", "batch_output")

    adopted = cli("adopt", requests)

    assert adopted.code == 0
    assert "no batch could be taken over" in adopted.err
    assert "The files of 1 batch are no longer there (batch_" in adopted.err


def test_an_input_that_grew_finds_the_rows_that_it_had(cli, requests_file) -> None:
    server = cli.serve()
    assert run(cli, requests_file(ROWS - 5)).code == 75
    until_ended(server)
    cli.lose_store()
    requests = requests_file(ROWS)

    adopted = cli("adopt", requests)

    assert "with 15 rows. 15 are answered; 0 are out in 0 batches." in adopted.err
    assert "5 rows are in no batch, and will be asked." in adopted.err
    finish(cli, server, requests)


def test_the_run_can_be_named(cli, requests_file) -> None:
    server, requests = cli.serve(), requests_file(ROWS)
    first = run(cli, requests)
    until_ended(server)
    name = first.err.split()[1]
    cli.lose_store()

    unknown = cli("adopt", requests, "--run", "nobody")
    assert (unknown.code, f"Runs that have some: {name}." in unknown.err) == (2, True)
    assert "20 are answered" in cli("adopt", requests, "--run", name[:5]).err
    finish(cli, server, requests)
    assert len(server.ledger.creates()) == 1


def test_results_that_cannot_be_fetched_now_are_taken_in_the_next_time(cli, requests_file) -> None:
    faults = named_batches("plain").with_fate("files.content", OK)
    for _ in range(6):
        faults = faults.with_fate("files.content", server_error())
    server, requests = cli.serve(faults), requests_file(ROWS)
    assert run(cli, requests).code == 75
    until_ended(server)
    cli.lose_store()

    adopted = cli("adopt", requests)

    assert adopted.code == 75, adopted.err
    assert "What 1 ended batch did could not be fetched yet." in adopted.err
    for _ in range(6):
        if (again := cli("adopt", requests)).code != 75:
            break
    assert again.code == 0
    finish(cli, server, requests)
    assert len(server.ledger.creates()) == 1


def test_a_list_that_cannot_be_had_takes_nothing_over(cli, requests_file) -> None:
    cli.serve("trouble:60")

    adopted = cli("adopt", requests_file(ROWS))

    assert adopted.code == 75
    assert "The account's batches could not be listed" in adopted.err


def test_the_line_for_which_a_batch_failed_that_was_taken_over_in_part_blames_no_other_row(
    cli, tmp_path
) -> None:
    server = cli.serve(named_batches("failed-validation"), batch_time=15.0)
    requests = write_jsonl(tmp_path / "requests.jsonl", [request_line(n) for n in range(1, ROWS + 1)])
    assert run(cli, requests).code == 75
    cli.lose_store()
    write_jsonl(requests, [request_line(n) for n in range(6, ROWS + 1)])
    adopted = cli("adopt", requests)
    assert adopted.code == 0, adopted.err
    assert "with 15 rows. 0 are answered; 15 are out in 1 batch." in adopted.err
    until_ended(server)

    assert run(cli, requests).code == 75
    assert cli("cancel", "last", "--poll", "0.1s").code == 0
    ended = cli("run", requests, "--mode", "online", "-o", "out.jsonl")

    assert ended.code == 0, ended.err
    assert [line["custom_id"] for line in read_jsonl(tmp_path / "out.jsonl")] == [
        f"r{n}" for n in range(6, 21)
    ]
