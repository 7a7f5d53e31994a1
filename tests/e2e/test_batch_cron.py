"""Batch mode under cron: starts that do not wait, overlap, come from other folders, and find another input."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from e2e.batch_runs import Case, Command, Result, has_ended, screens
from e2e.conftest import Ended, read_jsonl, request_line, write_jsonl
from e2e.killing import ForkEnded, Forks
from faultserver import BatchFaults, FaultServer, Gate, ok

ROWS = 20
STARTERS = 20
CROWDS = int(os.environ.get("RUNNER_CROWDS", "5"))
CRON = ("--no-wait", "--poll", "0.1s")


@pytest.fixture
def case(tmp_path: Path, empty_store: Path) -> Case:
    return Case(tmp_path / "job", empty_store, ROWS, options=CRON)


def until_it_is_done(command: Command, args: Iterable[object], server: FaultServer) -> Ended:
    """The same command, as cron would give it, each time when the batches that were out have ended."""
    for _ in range(6):
        server.ledger.wait_until(lambda ledger: has_ended(ledger, 1))
        ended = command(*args)
        if ended.code != 75:
            return ended
    raise AssertionError(f"it is never done: {ended.err}")


def user_rows(path: Path) -> dict[str, str]:
    """What each row of an output was answered, by its id."""
    return {
        line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
        for line in read_jsonl(path)
    }


# --- starts that do not wait --------------------------------------------------------------------------


def test_a_start_that_does_not_wait_says_what_is_out_and_the_next_goes_on(case: Case) -> None:
    with screens() as command, FaultServer(batches="stuck", batch_time=0.05) as server:
        first = command(*case.command(server.url))
        assert first.code == 75
        assert re.search(
            r"runner: Not finished: 1 batch is out \(20 rows, the oldest for \d s\)\. Run ", first.err
        )
        assert first.seconds < 5
        again = command(*case.command(server.url))
        assert again.code == 75
        assert not case.output.exists()
        assert len(server.ledger.creates()) == 1


def test_it_is_repeated_until_it_is_done_and_pays_for_each_row_once(case: Case) -> None:
    faults = "create-lost-executed+expired:0.4+missing-row+unicode"
    with screens() as command, FaultServer(batches=faults, batch_time=0.4) as server:
        codes = [command(*case.command(server.url)).code]
        last = until_it_is_done(command, case.command(server.url), server)
        found = Result(case, last, server.ledger)

        assert codes == [75]
        assert last.code == 0, last.err
        assert found.answered == case.ids
        assert found.executed == Counter(case.ids)
        assert found.statuses == ("expired", "completed", "completed")
        assert found.files == {"out.jsonl", "out.jsonl.summary.json"}


def test_a_run_is_found_again_from_another_folder(case: Case, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with screens() as command, FaultServer(batch_time=0.4) as server:
        with chdir(case.folder):
            begun = command("run", "requests.jsonl", *case.command(server.url)[2:])
        assert begun.code == 75
        with chdir(elsewhere):
            args = ["run", "../job/requests.jsonl", *case.command(server.url)[2:]]
            last = until_it_is_done(command, args, server)
        assert last.code == 0, last.err
        assert Result(case, last, server.ledger).answered == case.ids
        assert len(server.ledger.creates()) == 1


# --- another input while a batch is out ---------------------------------------------------------------


def edited(number: int) -> dict[str, Any]:
    """A row that asks something else than before."""
    content = f"row=r{number}-new say something else"
    return request_line(number, body={"messages": [{"role": "user", "content": content}]})


@pytest.mark.parametrize("change", ["appended", "edited", "taken out"])
def test_rows_that_are_out_in_a_batch_of_an_earlier_run_are_waited_for(change: str, case: Case) -> None:
    rows = [request_line(number) for number in range(1, ROWS + 1)]
    new = {
        "appended": [*rows, *(request_line(number) for number in range(21, 26))],
        "edited": [*rows[:2], edited(3), rows[3], edited(5), *rows[5:]],
        "taken out": rows[5:],
    }[change]
    with screens() as command, FaultServer(batch_time=1.0) as server:
        assert command(*case.command(server.url)).code == 75
        write_jsonl(case.input, new)
        second = command(*case.command(server.url))
        assert second.code == 75, second.err
        assert len(server.ledger.creates()) == (1 if change == "taken out" else 2), "what is new goes at once"
        last = until_it_is_done(command, case.command(server.url), server)
        assert last.code == 0, last.err

        assert list(user_rows(case.output)) == [row["custom_id"] for row in new]
        assert set(server.ledger.executed.values()) == {1}, "no body twice"
        more = {"appended": 5, "edited": 2, "taken out": 0}[change]
        assert len(server.ledger.executed) == ROWS + more
        summary = Result(case, last, server.ledger).summary
        assert summary["rows"]["ok"] == len(new)


def test_an_input_that_changes_twice_while_batches_are_out_pays_for_each_body_once(case: Case) -> None:
    rows = [request_line(number) for number in range(1, 41)]
    with screens() as command, FaultServer(batches="expired:0.5", batch_time=0.6) as server:
        for count in (20, 30, 40):
            write_jsonl(case.input, rows[:count])
            assert command(*case.command(server.url)).code == 75
        last = until_it_is_done(command, case.command(server.url), server)
        assert last.code == 0, last.err
        assert list(user_rows(case.output)) == [row["custom_id"] for row in rows]
        assert server.ledger.executed_rows == Counter(row["custom_id"] for row in rows)


# --- a stop in the middle -----------------------------------------------------------------------------


def test_a_stop_says_what_goes_on_at_the_provider_and_the_same_command_takes_it_in(
    forks: Forks, tmp_path: Path, empty_store: Path
) -> None:
    case = Case(tmp_path / "job", empty_store, ROWS, options=("--poll", "0.05s"))
    with FaultServer(batch_time=1.5) as server:

        def stop(pid: int) -> None:
            server.ledger.wait_until(lambda ledger: any(is_look(one) for one in ledger.arrivals), timeout=30)
            os.kill(pid, signal.SIGTERM)

        stopped = forks(case.command(server.url), folder=case.folder, on_start=stop)
        assert stopped.code == 4, stopped.screen
        assert "Stopped (SIGTERM). 1 batch goes on at the provider (20 rows)" in stopped.screen
        assert re.search(r"the same command takes in .*`runner cancel \w+` calls ", stopped.screen)

        ended = forks(case.command(server.url), folder=case.folder)
        assert ended.code == 0, ended.screen
        assert server.ledger.executed_rows == Counter(case.ids)
        assert len(server.ledger.creates()) == 1


def is_look(arrival: Any) -> bool:
    return arrival.operation is not None and arrival.operation.name == "batches.retrieve"


# --- a crowd ------------------------------------------------------------------------------------------


def crowd(forks: Forks, case: Case, server: FaultServer, gate: Gate) -> list[ForkEnded]:
    """Twenty starts at once; the one that is let in is held at its first upload until all others have ended."""
    ready = threading.Barrier(STARTERS)
    refused = threading.Semaphore(0)

    def start(_: int) -> ForkEnded:
        ready.wait()
        ended = forks(case.command(server.url), folder=case.folder)
        refused.release()
        return ended

    with ThreadPoolExecutor(STARTERS) as pool:
        started = [pool.submit(start, number) for number in range(STARTERS)]
        for _ in range(STARTERS - 1):
            assert refused.acquire(timeout=60), "somebody waits for the lock"
        gate.open()
        return [one.result() for one in started]


def test_of_twenty_starts_at_once_one_is_let_in(forks: Forks, tmp_path: Path, empty_store: Path) -> None:
    seconds: list[float] = []
    cpu: list[float] = []
    for number in range(CROWDS):
        gate = Gate()
        case = Case(tmp_path / str(number), empty_store, ROWS, options=CRON)
        held = BatchFaults().with_fate("files.create", ok().held(gate))
        with FaultServer(batches=held, batch_time=0.05) as server:
            ends = crowd(forks, case, server, gate)
            out = [one for one in ends if one.code == 5]
            assert len(out) == STARTERS - 1, Counter(one.code for one in ends)
            assert all("Another process is running this series: process " in one.screen for one in out)
            seconds += [one.seconds for one in out]
            cpu += [one.cpu for one in out]
            last = next(one for one in ends if one.code != 5)
            while last.code == 75:
                server.ledger.wait_until(lambda ledger: has_ended(ledger, 1))
                last = forks(case.command(server.url), folder=case.folder)
            assert last.code == 0, last.screen
            assert server.ledger.executed_rows == Counter(case.ids)
            assert len(server.ledger.creates()) == 1
    # Twenty share two processors: each alone needs what it had of them.
    assert max(cpu) < 0.5
    print({"crowds": CROWDS, "seconds": [min(seconds), max(seconds)], "cpu": [min(cpu), max(cpu)]})


def test_a_start_beside_one_that_runs_is_refused_within_half_a_second(
    forks: Forks, tmp_path: Path, empty_store: Path
) -> None:
    gate = Gate()
    case = Case(tmp_path / "job", empty_store, ROWS, options=CRON)
    held = BatchFaults().with_fate("files.create", ok().held(gate))
    with FaultServer(batches=held, batch_time=0.05) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(forks, case.command(server.url), folder=case.folder)
        server.ledger.wait_until(lambda ledger: ledger.in_flight > 0, timeout=30)
        late = forks(case.command(server.url), folder=case.folder)
        fine = forks([*case.command(server.url), "--if-locked", "ok"], folder=case.folder)
        gate.open()
        assert (late.code, fine.code) == (5, 0)
        holder = re.search(r"process (\d+) on \S+, since \S+Z\.", late.screen)
        assert holder is not None, late.screen
        assert late.cpu < 0.5
        assert late.seconds < 3, "on a machine that does much else"
        assert first.result().code in (0, 75)
        print({"refused after": late.seconds})
