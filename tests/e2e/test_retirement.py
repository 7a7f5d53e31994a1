"""A model past its last day is said before the first call, and a server without a list keeps no run waiting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.conftest import Cli
from faultserver import Arrival, Behaviour, FaultServer, Script, answer, error, ok, silence

RequestsFile = Callable[..., Path]


def listing(date: str | None) -> Behaviour:
    """A list of one model with this shutdown date."""
    model = {"id": "gpt-6-luna", "object": "model", "created": 1, "owned_by": "x", "shutdown_date": date}
    return answer(body=json.dumps({"object": "list", "data": [model]}).encode())


def models_say(fate: Behaviour) -> Script:
    def script(arrival: Arrival) -> Behaviour:
        return fate if arrival.path == "/v1/models" else ok()

    return script


def test_a_model_past_its_last_day_is_said_before_the_first_call(
    cli: Cli, server: FaultServer, requests_file: RequestsFile
) -> None:
    server.script = models_say(listing("2026-01-31"))
    ended = cli("run", requests_file(3), "-o", "out.jsonl", "--json")
    assert ended.code == 0, ended.err
    [said] = [event for event in ended.events if event["event"] == "warning"]
    assert "gpt-6-luna was to be shut down on 2026-01-31" in said["message"]
    first_progress = next(n for n, event in enumerate(ended.events) if event["event"] == "progress")
    assert ended.events.index(said) < first_progress


@pytest.mark.parametrize(
    "fate",
    [
        listing(None),
        listing("2999-01-01"),
        listing("soon"),
        error(404, None),
        error(401, None),
        error(500, None),
        silence(executed=False),
    ],
    ids=["no date", "later", "no day", "no list", "no access", "500", "silent"],
)
def test_what_says_nothing_of_the_kind_is_no_hindrance(
    cli: Cli, server: FaultServer, requests_file: RequestsFile, fate: Behaviour
) -> None:
    server.script = models_say(fate)
    ended = cli("run", requests_file(2), "-o", "out.jsonl")
    assert ended.code == 0, ended.err
    assert "shut down" not in ended.err


def test_only_the_first_start_of_a_run_looks(
    cli: Cli, server: FaultServer, requests_file: RequestsFile
) -> None:
    path = requests_file(3)
    assert cli("run", path, "-o", "out.jsonl", "--limit", "1").code == 0
    assert cli("run", path, "-o", "out.jsonl", "--limit", "1").code == 0
    assert server.ledger.calls("/v1/models") == 1
