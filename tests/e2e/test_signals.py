"""Signals to the real command: once it drains, keeps and exits 4; Ctrl-C twice is out within a second, 130."""

from __future__ import annotations

import signal
import time
from decimal import Decimal
from pathlib import Path

import orjson
import pytest
from faultserver import FaultServer, Gate, ok

ROWS = 20
IN_FLIGHT = 4
ANSWERED = 6

PRICES = {
    "as_of": "2026-11-01",
    "models": {"gpt-6-luna": {"input": "1", "cached_input": "1", "cache_write": "1", "output": "1"}},
}


class Caught:
    """A run of 20 rows, caught when six are answered and four are held in flight by the server's gate."""

    def __init__(self, cli, server: FaultServer, requests_file, folder: Path) -> None:
        self.cli = cli
        self.server = server
        self.output = folder / "out.jsonl"
        self.gate = Gate()
        (folder / "prices.json").write_bytes(orjson.dumps(PRICES))
        self.command = ["run", requests_file(ROWS), "-o", "out.jsonl", "--prices", "prices.json"]

    def start(self, *more: str):
        self.server.script = lambda arrival: ok() if arrival.n <= ANSWERED else ok().held(self.gate)
        running = self.cli.start(*self.command, "--concurrency", str(IN_FLIGHT), *more)
        self.server.ledger.wait_until(
            lambda ledger: ledger.answered == ANSWERED and ledger.in_flight == IN_FLIGHT
        )
        return running

    def finish(self) -> dict:
        """The same command again; its summary."""
        self.gate.open()
        self.server.script = "ok"
        ended = self.cli(*self.command)
        assert ended.code == 0, ended.err
        lines = [orjson.loads(line) for line in self.output.read_bytes().split(b"\n")[:-1]]
        assert [line["custom_id"] for line in lines] == [f"r{n}" for n in range(1, ROWS + 1)]
        summary = orjson.loads(self.output.with_name("out.jsonl.summary.json").read_bytes())
        assert summary["rows"] == {"in": ROWS, "ok": ROWS, "failed": 0, "invalid": 0, "skipped": 0}
        return summary


@pytest.fixture
def caught(cli, server, requests_file, tmp_path) -> Caught:
    return Caught(cli, server, requests_file, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_once_drains_what_is_in_flight_and_pays_nothing_twice(number, caught, server) -> None:
    running = caught.start()
    running.send(number)
    said = running.line("Stopping")
    assert f"{IN_FLIGHT} calls in flight" in said
    assert ("SIGTERM" if number == signal.SIGTERM else "Ctrl-C") in said
    caught.gate.open()
    ended = running.wait(10)
    assert ended.code == 4, ended
    assert "same command" in ended.err
    assert server.ledger.calls() == ANSWERED + IN_FLIGHT
    assert not caught.output.exists()
    summary = caught.finish()
    assert server.ledger.calls() == ROWS
    assert set(server.ledger.executed.values()) == {1}
    assert summary["cost_usd"]["at_risk"] == "0"


def test_twice_is_out_within_a_second_and_repays_no_more_than_was_in_flight(caught, server) -> None:
    running = caught.start()
    running.send(signal.SIGINT)
    running.line("Stopping")
    before = time.monotonic()
    running.send(signal.SIGINT)
    ended = running.wait(10)
    assert time.monotonic() - before < 1.0
    assert ended.code == 130, ended
    summary = caught.finish()
    paid = server.ledger.executed
    assert len(paid) == ROWS
    assert max(paid.values()) <= 2
    assert sum(paid.values()) <= ROWS + IN_FLIGHT
    assert Decimal(summary["cost_usd"]["at_risk"]) > 0


def test_a_short_grace_leaves_a_server_that_holds_its_answers(caught, server) -> None:
    running = caught.start("--grace", "0.2s")
    before = time.monotonic()
    running.send(signal.SIGTERM)
    ended = running.wait(10)
    assert time.monotonic() - before < 5
    assert ended.code == 4, ended
    assert "same command" in ended.err
    summary = caught.finish()
    paid = server.ledger.executed
    assert len(paid) == ROWS
    assert max(paid.values()) <= 2
    assert sum(paid.values()) == ROWS + IN_FLIGHT
    assert Decimal(summary["cost_usd"]["at_risk"]) > 0


def test_a_run_that_waits_for_its_server_stops_at_once(cli, server, requests_file) -> None:
    server.script = "always:503"
    running = cli.start("run", requests_file(5))
    running.line("Waiting")
    running.send(signal.SIGTERM)
    ended = running.wait(5)
    assert ended.code == 4, ended
    server.script = "ok"
    assert cli("run", "requests.jsonl").code == 0
    assert set(server.ledger.executed.values()) == {1}


def test_a_run_that_waits_for_its_standard_input_stops_too(cli, server, requests_file, tmp_path) -> None:
    given = requests_file(800).read_bytes()
    # More than a pipe holds: once it is written, the run has begun to read, and then waits for more.
    assert len(given) > 2 * 65_536
    running = cli.start("run", "-", "-o", "out.jsonl", stdin=given, keep_stdin_open=True)
    running.send(signal.SIGTERM)
    ended = running.wait(10)
    assert ended.code == 4, ended
    assert "Stopped while" in ended.err
    assert server.ledger.calls() == 0
    assert cli("run", "-", "-o", "out.jsonl", stdin=requests_file(3).read_bytes()).code == 0
    assert server.ledger.calls() == 3
