"""Batches at the simulator: inside the run, where they end with it, and as a server, which keeps them."""

from __future__ import annotations

import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from e2e.batch_runs import screens
from e2e.conftest import Ended, read_jsonl

from runner.simulator import Settings, Simulator

ROWS = 40
POLL = ("--poll", "0.1s", "--queue-wait", "0.2s")


def command(*args: object) -> Ended:
    """The command in the test's own process, whose simulator is a fast one."""
    with mock.patch("runner.simulator.Settings", partial(Settings, batch_time=0.3)), screens() as run:
        return run(*args)


def batch_events(events: list[dict[str, Any]]) -> Counter[str]:
    return Counter(one["state"] for one in events if one["event"] == "batch")


def test_a_batch_that_ended_with_its_simulator_is_asked_again_at_once(
    cli, job_file, store: Path, tmp_path: Path
) -> None:
    job = job_file(ROWS, mode="batch")
    words = ("run", job, "--provider", "sim", "--store", f"sqlite:///{store}", *POLL)
    killed = cli.start(*words)
    killed.line("submitted")
    killed.send(signal.SIGKILL)
    killed.wait()

    # Nobody could take it in later: a start that is not to wait waits for what ends with it.
    ended = command(*words, "--no-wait", "--json")

    assert ended.code == 0, ended.err
    assert ended.seconds < 10, "what is gone is not waited for"
    assert batch_events(ended.events)["gone"] == 1
    assert batch_events(ended.events)["completed"] == 1
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [one["id"] for one in rows] == [f"r{n}" for n in range(1, ROWS + 1)]
    assert all(one["result"]["attempts"] == 1 for one in rows), "it cost no row an attempt"


@pytest.mark.parametrize("mode", ["online", "auto"])
def test_what_ended_with_its_simulator_is_asked_in_another_way(
    mode: str, cli, job_file, store: Path, tmp_path: Path
) -> None:
    job = job_file(ROWS)
    words = ("run", job, "--provider", "sim", "--store", f"sqlite:///{store}", *POLL)
    killed = cli.start(*words, "--mode", "batch")
    killed.line("submitted")
    killed.send(signal.SIGKILL)
    killed.wait()

    ended = command(*words, "--mode", mode, *(("--deadline", "1h") if mode == "auto" else ()))

    assert ended.code == 0, ended.err
    assert all(one["result"]["output"] for one in read_jsonl(tmp_path / "out.jsonl"))


def test_who_stops_is_told_that_the_batch_ends_with_the_simulator(cli, job_file) -> None:
    running = cli.start("run", job_file(ROWS, mode="batch"), "--provider", "sim", *POLL)
    running.line("submitted")
    running.send(signal.SIGINT)

    ended = running.wait()

    assert ended.code == 4
    assert "1 batch ends with the simulator (40 rows)" in ended.err
    assert "the same command goes on" in ended.err


def test_a_simulator_that_is_a_server_keeps_its_batches(job_file, tmp_path: Path) -> None:
    with Simulator(Settings(batch_time=0.6)) as simulator:
        store = f"sqlite:///{tmp_path / 'store.db'}"
        words = ("run", job_file(ROWS, mode="batch"), "--provider", "sim", "--base-url", simulator.url)
        left = command(*words, "--store", store, "--poll", "5s", "--no-wait")
        assert left.code == 75, left.err

        ended = command(*words, "--store", store, *POLL)

        assert ended.code == 0, ended.err
        ledger = simulator.ledger()
        assert len(ledger["batches"]) == 1
        assert all(one["result"]["attempts"] == 1 for one in read_jsonl(tmp_path / "out.jsonl"))
