"""Batch mode from start to start: another mode, another input, another budget, another clock, a stop, a full queue."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from e2e.batch_runs import Case, Command, Result, has_ended, screens
from e2e.conftest import Ended, read_jsonl, request_line, write_jsonl
from e2e.killing import Forks
from faultserver import BatchFaults, FaultServer, Gate, behaviour, courses, named_batches, ok

ROWS = 20
PRICES = {
    "as_of": "2026-11-01",
    "models": {
        "gpt-6-luna": {"input": "0.10", "output": "0.50", "batch": {"input": "0.05", "output": "0.25"}},
    },
}
MakeCase = Callable[..., Case]


@pytest.fixture
def made(tmp_path: Path, empty_store: Path) -> MakeCase:
    def make(rows: int = ROWS, *options: str, name: str = "job") -> Case:
        return Case(tmp_path / name, empty_store, rows, options=("--poll", "0.05s", *options))

    return make


def priced(case: Case) -> list[str]:
    path = case.folder / "prices.json"
    path.write_bytes(orjson.dumps(PRICES))
    return ["--prices", str(path)]


def online(args: list[str]) -> list[str]:
    """The same command in another mode."""
    return ["online" if one == "batch" else one for one in args]


def until_done(command: Command, args: list[str], server: FaultServer) -> Ended:
    for _ in range(8):
        server.ledger.wait_until(lambda ledger: has_ended(ledger, 1))
        ended = command(*args)
        if ended.code != 75:
            return ended
    raise AssertionError(f"it is never done: {ended.err}")


# --- another input ------------------------------------------------------------------------------------


def test_what_a_later_runs_batch_leaves_undone_is_asked_for_the_earlier_run_that_is_taken_up_again(
    made: MakeCase,
) -> None:
    case = made(ROWS, "--no-wait")
    rows = [request_line(number) for number in range(1, 31)]
    faults = "expired:0.5+expired:0.3+expired:0.3"
    with screens() as command, FaultServer(batches=faults, batch_time=0.5) as server:
        args = case.command(server.url)
        for count in (20, 30):
            write_jsonl(case.input, rows[:count])
            assert command(*args).code == 75
            server.ledger.wait_until(lambda ledger: has_ended(ledger, 1))
        write_jsonl(case.input, rows[:20])
        last = until_done(command, args, server)
        assert last.code == 0, last.err
        assert Result(case, last, server.ledger).answered == case.ids
        assert set(server.ledger.executed.values()) == {1}


def test_rows_that_an_earlier_run_took_back_are_asked_when_the_later_one_goes_on(made: MakeCase) -> None:
    case = made()
    rows = [request_line(number) for number in range(1, 31)]
    with screens() as command, FaultServer() as server:
        args = [*online(case.command(server.url)), *priced(case)]
        for count, budget in ((20, "0.00005"), (30, "0.00004"), (20, "0.00005")):
            write_jsonl(case.input, rows[:count])
            assert command(*args, "--budget", budget).code == 4
        write_jsonl(case.input, rows)
        last = command(*args)
        assert last.code == 0, last.err
        assert "30 of 30 rows answered" in last.err
        assert set(server.ledger.executed.values()) == {1}


def test_a_batch_that_was_never_sent_is_not_sent_for_an_input_that_was_edited_since(made: MakeCase) -> None:
    case = made(ROWS, "--queue-wait", "1h")
    with screens() as command, FaultServer(batches="queue-full-400:1", batch_time=0.05) as server:
        assert command(*case.command(server.url), "--no-wait").code == 75
        rows = [request_line(number) for number in range(15, 31)]
        write_jsonl(case.input, rows)
        ended = command(*case.command(server.url))
        assert ended.code == 0, ended.err
        assert server.ledger.executed_rows == Counter(row["custom_id"] for row in rows)


def test_lines_of_an_earlier_runs_batch_may_have_a_price(made: MakeCase) -> None:
    case = made(ROWS, "--no-wait")
    with screens() as command, FaultServer(batches="expired:0.5", batch_time=0.5) as server:
        args = [*case.command(server.url), *priced(case), "--budget", "1.00"]
        assert command(*args).code == 75
        write_jsonl(case.input, [request_line(number) for number in range(1, 31)])
        last = until_done(command, args, server)
        assert last.code == 0, last.err
        assert len(read_jsonl(case.output)) == 30
        assert set(server.ledger.executed.values()) == {1}


def test_a_line_whose_worst_case_is_not_known_stands_in_a_batch_beside_those_that_have_one(
    made: MakeCase,
) -> None:
    case = made(3)
    picture = {"type": "image_url", "image_url": {"url": "https://images.example/1.png"}}
    content = [{"type": "text", "text": "row=r2 what is it?"}, picture]
    rows = [request_line(1), request_line(2, body={"messages": [{"role": "user", "content": content}]})]
    write_jsonl(case.input, [*rows, request_line(3)])
    with screens() as command, FaultServer(batch_time=0.05) as server:
        ended = command(*case.command(server.url), *priced(case))
        assert ended.code == 0, ended.err
        assert Result(case, ended, server.ledger).answered == case.ids


# --- another budget -----------------------------------------------------------------------------------


def test_what_is_out_in_a_batch_is_set_aside_when_the_rest_is_asked_online(made: MakeCase) -> None:
    case = made(100)
    with screens() as command, FaultServer(batch_time=0.6) as server:
        args = [*case.command(server.url), *priced(case), "--budget", "0.0006"]
        first = command(*args, "--no-wait")
        assert first.code == 75, "the end of what is out may leave more than its worst case"
        assert "67 rows wait" in first.err

        second = command(*online(args), "--no-wait")
        assert second.code == 75, second.err
        assert not server.ledger.calls(), "its worst case and that of the batch could pass the budget"

        last = command(*online(args))
        assert last.code == 0, last.err
        assert server.ledger.executed_rows == Counter(case.ids)


# --- another mode -------------------------------------------------------------------------------------


def test_online_asks_at_once_what_an_ended_batch_left(made: MakeCase) -> None:
    case = made(ROWS, "--no-wait")
    with screens() as command, FaultServer(batches="expired:0.5", batch_time=0.6) as server:
        assert command(*case.command(server.url)).code == 75
        server.ledger.wait_until(lambda ledger: has_ended(ledger, 1))
        ended = command(*online(case.command(server.url)))
        assert ended.code == 0, ended.err
        assert server.ledger.executed_rows == Counter(case.ids)
        assert server.ledger.calls() == ROWS // 2


def test_online_asks_what_waits_for_room_in_the_queue_of_batches(made: MakeCase) -> None:
    case = made(ROWS, "--queue-wait", "1h")
    with screens() as command, FaultServer(batches="queue-full-400:9", batch_time=0.05) as server:
        assert command(*case.command(server.url), "--no-wait").code == 75
        ended = command(*online(case.command(server.url)))
        assert ended.code == 0, ended.err
        assert server.ledger.executed_rows == Counter(case.ids)
        assert not server.ledger.creates()


# --- another clock ------------------------------------------------------------------------------------


@pytest.mark.parametrize("back", [7_200.0, 100_000.0])
def test_a_clock_that_was_set_back_makes_no_row_wait(back: float, made: MakeCase) -> None:
    case = made(ROWS, "--no-wait")
    with screens() as command, FaultServer(batches="stuck:validating*2", batch_time=0.05) as server:
        assert command(*case.command(server.url)).code == 75
        assert command("cancel", "last", *case.where(server.url)).code == 0, "the rows are ready again"
        with closing(sqlite3.connect(case.store)) as store:
            store.execute("UPDATE task SET due_at = due_at + ?", (round(back * 1e6),))
            store.commit()
        ended = command(*case.command(server.url))
        assert ended.code == 75
        assert "1 batch is out (20 rows" in ended.err


def test_a_clock_that_was_set_back_makes_no_submission_wait(made: MakeCase) -> None:
    case = made(ROWS, "--no-wait", "--queue-wait", "1h")
    with screens() as command, FaultServer(batches="queue-full-400:1", batch_time=0.6) as server:
        assert command(*case.command(server.url)).code == 75
        assert not server.ledger.creates()
        assert command(*case.command(server.url)).code == 75
        assert not server.ledger.creates(), "the hour is not over"
        with closing(sqlite3.connect(case.store)) as store:
            store.execute("UPDATE batch SET created_at = created_at + 7200000000")
            store.commit()
        assert command(*case.command(server.url)).code == 75
        assert len(server.ledger.creates()) == 1


# --- a stop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["files.create", "files.content"])
def test_a_stop_that_cuts_something_off_leaves_the_run_to_go_on(
    operation: str, forks: Forks, tmp_path: Path, empty_store: Path
) -> None:
    options = ("--poll", "0.05s", "--grace", "0.2s")
    case, gate = Case(tmp_path / "job", empty_store, ROWS, options=options), Gate()
    held = BatchFaults().with_fate(operation, ok().held(gate))
    with FaultServer(batches=held, batch_time=0.05) as server:

        def stop(pid: int) -> None:
            server.ledger.wait_until(lambda ledger: any(is_one(it) for it in ledger.arrivals), timeout=30)
            os.kill(pid, signal.SIGTERM)

        def is_one(arrival: Any) -> bool:
            return arrival.operation is not None and arrival.operation.name == operation

        stopped = forks(case.command(server.url), folder=case.folder, on_start=stop)
        gate.open()
        assert stopped.code == 4, stopped.screen
        assert "Stopped (SIGTERM)." in stopped.screen
        assert "the same command" in stopped.screen
        assert not case.output.exists()

        ended = forks(case.command(server.url), folder=case.folder)
        assert ended.code == 0, ended.screen
        assert server.ledger.executed_rows == Counter(case.ids)


def test_a_cancel_that_is_refused_for_now_is_asked_again(made: MakeCase) -> None:
    case = made()
    slow = behaviour.error(429, "rate_limit_exceeded", "Slow down.")
    faults = named_batches("stuck").with_fate("batches.cancel", slow)
    with screens() as command, FaultServer(batches=faults, batch_time=0.05) as server:
        assert command(*case.command(server.url), "--no-wait").code == 75
        cancelled: list[Ended] = []
        args = ("cancel", "last", *case.where(server.url), "--poll", "0.05s")
        thread = threading.Thread(target=lambda: cancelled.append(command(*args)), daemon=True)
        thread.start()
        thread.join(20)
        assert cancelled, "it is never cancelled"
        assert cancelled[0].code == 0
        assert "it could not be cancelled" in cancelled[0].err
        assert len(server.ledger.noted("cancelled")) == 1


# --- a full queue -------------------------------------------------------------------------------------


def test_a_start_that_does_not_wait_does_not_wait_for_room_either(made: MakeCase) -> None:
    limit = "Enqueued token limit reached for gpt-6-luna. Limit: 300 enqueued tokens."
    full = courses.refused(courses.Failure(code="token_limit_exceeded", message=limit))
    case = made(60, "--no-wait", "--queue-wait", "0.05s")
    with (
        screens() as command,
        FaultServer(batches=BatchFaults().with_course(full), batch_time=0.05) as server,
    ):
        codes = []
        while (code := command(*case.command(server.url)).code) == 75:
            codes.append(code)
            assert len(codes) < 20
            server.ledger.wait_until(lambda ledger: has_ended(ledger, 1))
        assert code == 0
        assert server.ledger.executed_rows == Counter(case.ids)


@pytest.mark.parametrize("rows", [1, 8])
def test_no_row_fails_because_others_fill_the_queue(rows: int, made: MakeCase) -> None:
    case = made(rows, "--queue-wait", "0.02s")
    faults = BatchFaults()
    for _ in range(7):
        refusal = behaviour.error(400, "token_limit_exceeded", "Enqueued token limit reached.")
        faults = faults.with_fate("batches.create", refusal)
    with screens() as command, FaultServer(batches=faults, batch_time=0.05) as server:
        ended = command(*case.command(server.url))
        assert ended.code == 0, ended.err
        assert server.ledger.executed_rows == Counter(case.ids)
        creates = [
            one.time for one in server.ledger.arrivals if one.path == "/v1/batches" and one.method == "POST"
        ]
        gaps = [later - earlier for earlier, later in pairwise(creates)]
        # Two halves of one that was cut may be tried side by side.
        assert rows > 1 or all(gap >= 0.02 * 2**nth for nth, gap in enumerate(gaps)), "each twice as long"


# --- a server in trouble ------------------------------------------------------------------------------


def test_no_row_fails_because_the_server_cannot_look_through_a_file(made: MakeCase) -> None:
    case, faults = made(5, "--poll", "0.02s"), BatchFaults()
    for _ in range(5):
        trouble = courses.Failure(code="server_error", message="The batch failed for an internal error.")
        faults = faults.with_course(courses.refused(trouble))
    with screens() as command, FaultServer(batches=faults, batch_time=0.02) as server:
        ended = command(*case.command(server.url))
        assert ended.code == 0, ended.err
        assert server.ledger.executed_rows == Counter(case.ids)
        assert len(server.ledger.creates()) == 6


@pytest.mark.parametrize("option", ["--poll", "--queue-wait"])
def test_a_pause_of_nothing_is_refused_as_it_is_in_a_job_file(option: str, made: MakeCase) -> None:
    with screens() as command:
        ended = command(*made().command("http://127.0.0.1:9/v1"), option, "0s")
    assert ended.code == 2
    assert f"Invalid value for '{option}': must be from 10ms to" in ended.err
