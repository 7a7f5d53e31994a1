"""What the command makes of a server that fails: judged by the server's ledger, the files and the store."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from decimal import Decimal
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from e2e.conftest import Cli, read_jsonl, request_line, write_jsonl
from faultserver import (
    Arrival,
    Behaviour,
    FaultServer,
    Gate,
    Script,
    chunked,
    cut,
    cut_message,
    error,
    error_in_200,
    html,
    lost,
    named_script,
    ok,
    overloaded,
    rate_limited_until,
    reset,
    server_error,
)

RequestsFile = Callable[..., Path]
JobFile = Callable[..., Path]

INPUT, OUTPUT = Decimal("0.10"), Decimal("0.50")
MILLION = Decimal(1_000_000)


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    """A price file for the model that these tests ask."""
    path = tmp_path / "prices.json"
    table = {"as_of": "2026-11-01", "models": {"gpt-6-luna": {"input": str(INPUT), "output": str(OUTPUT)}}}
    path.write_bytes(orjson.dumps(table))
    return path


def summary_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(output.with_name(f"{output.name}.summary.json").read_bytes())
    rows = found["rows"]
    assert rows["in"] == rows["ok"] + rows["failed"] + rows["invalid"] + rows["skipped"]
    return found


def by_row(server: FaultServer) -> dict[str | None, list[Arrival]]:
    """The arrivals at the paid endpoints, by the row that they name."""
    found: dict[str | None, list[Arrival]] = {}
    for arrival in server.ledger.arrivals:
        if arrival.paid:
            found.setdefault(arrival.marker, []).append(arrival)
    return found


def first_time(faults: Mapping[str, Behaviour]) -> Script:
    """The rows named meet their fault once; all else is answered."""
    return lambda arrival: faults.get(arrival.marker or "", ok()) if arrival.nth == 1 else ok()


def slowed(script: Script, seconds: float) -> Script:
    """The same, each answer so many seconds later: so that calls are in flight side by side."""
    return lambda arrival: script(arrival).after(seconds)


def limited(headers: list[tuple[str, str]], message: str = "Slow down.") -> Behaviour:
    return error(429, "rate_limit_exceeded", message, kind="requests", headers=headers)


# --- one in ten fails ---------------------------------------------------------------------------------


def test_500_requests_with_one_in_ten_failing_are_answered_in_order(
    cli: Cli, requests_file: RequestsFile, prices: Path, tmp_path: Path
) -> None:
    executed_and_lost = [lost(), cut(-20), cut(0), chunked(16, cut_at=40)]
    fate_unknown = [server_error(), html(503), html(200), error_in_200(), reset(), *executed_and_lost]
    refused = [limited([("retry-after-ms", "20")]), overloaded("0.05"), limited([("Retry-After", "0.05")])]
    kinds = [*fate_unknown, *refused]
    chance = random.Random(20)
    unlucky = chance.sample([f"r{n}" for n in range(1, 501)], 50)
    faults = {row: kinds[n % len(kinds)] for n, row in enumerate(unlucky)}
    faults[unlucky[-1]] = rate_limited_until(1.0)
    ambiguous = [row for row, fault in faults.items() if fault in fate_unknown]
    repaid = [row for row, fault in faults.items() if fault in executed_and_lost]

    source = requests_file(500)
    with FaultServer(first_time(faults), latency=0.005) as server:
        again = ("run", source, "-o", "out.jsonl", "--prices", prices, "--base-url", server.url)
        ended = cli(*again)
        assert ended.code == 0, ended.err
        calls = server.ledger.calls()
        repeated = cli(*again)
        assert repeated.code == 0
        assert server.ledger.calls() == calls == 550

        seen = by_row(server)
        assert {row for row, arrivals in seen.items() if len(arrivals) > 1} == set(faults)
        executed = {a.marker: server.ledger.executed[a.sha] for a in server.ledger.arrivals}
        assert {row for row, count in executed.items() if count != 1} == set(repaid)
        assert max(executed.values()) == 2
        bodies = {row: arrivals[0].body for row, arrivals in seen.items()}

    lines = read_jsonl(tmp_path / "out.jsonl")
    assert [line["custom_id"] for line in lines] == [f"r{n}" for n in range(1, 501)]
    for line in lines:
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        text = line["response"]["body"]["choices"][0]["message"]["content"]
        assert text.endswith(f" row={line['custom_id']}")
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()

    summary = summary_of(tmp_path / "out.jsonl")
    assert summary["rows"]["ok"] == 500
    assert (summary["requests"], summary["retries"]) == (550, 50)
    assert summary["ambiguous"] == len(ambiguous)
    at_risk = Decimal(summary["cost_usd"]["at_risk"])
    longest_answers = len(ambiguous) * 50 * OUTPUT / MILLION
    longest_prompts = sum(len(bodies[row]) for row in ambiguous) * INPUT / MILLION
    assert longest_answers < at_risk <= longest_answers + longest_prompts


def test_the_mixed_script_of_the_fault_server(cli: Cli, requests_file: RequestsFile, tmp_path: Path) -> None:
    with FaultServer("mixed", seed=3, latency=0.002) as server:
        ended = cli("run", requests_file(100), "-o", "out.jsonl", "--base-url", server.url)
        assert ended.code == 0, ended.err
        assert server.ledger.calls() == 110
        assert max(server.ledger.executed.values()) <= 2
    summary = summary_of(tmp_path / "out.jsonl")
    assert summary["rows"]["ok"] == 100
    assert summary["rate_limited"] == 2
    assert summary["cost_usd"]["at_risk"] is None, "at an unknown price the risk is unknown, not nothing"


# --- outages ------------------------------------------------------------------------------------------


def test_an_outage_fails_no_row_and_wastes_few_calls(
    cli: Cli, server: FaultServer, job_file: JobFile, tmp_path: Path
) -> None:
    job = job_file(200, retry={"attempts": 2, "max_wait": "1s"}, limits={"concurrency": 8})
    server.script = named_script("outage:60:3.5")
    ended = cli("run", job)
    assert ended.code == 0, ended.err
    lines = read_jsonl(tmp_path / "out.jsonl")
    assert [line["id"] for line in lines] == [f"r{n}" for n in range(1, 201)]
    assert max(line["result"]["attempts"] for line in lines) <= 2
    wasted = server.ledger.behaviours["503-html"]
    assert 2 <= wasted <= 8 + 8, "those in flight, then one prober at a time, at most a second apart"


def test_an_outage_from_the_very_start_fails_no_row(
    cli: Cli, server: FaultServer, job_file: JobFile, tmp_path: Path
) -> None:
    job = job_file(50, retry={"attempts": 1, "max_wait": "1s"}, limits={"concurrency": 8})
    server.script = named_script("outage:1:2.5")
    ended = cli("run", job)
    assert ended.code == 0, ended.err
    assert {line["result"]["attempts"] for line in read_jsonl(tmp_path / "out.jsonl")} == {1}
    assert server.ledger.behaviours["503-html"] <= 8 + 6


def test_a_server_that_is_not_listening_is_waited_for(cli: Cli, job_file: JobFile, tmp_path: Path) -> None:
    job = job_file(120, retry={"attempts": 1, "max_wait": "1s"}, limits={"concurrency": 8})
    with FaultServer() as place:
        port = place.port
    running = cli.start("run", job, "--json", "--base-url", f"http://127.0.0.1:{port}/v1")
    running.line('"held"')
    # A line of progress comes every second: by the second one a prober, too, has found nobody there.
    running.line('"progress"')
    running.line('"progress"')
    with FaultServer(port=port) as server:
        ended = running.wait()
        assert ended.code == 0, ended.err
        assert server.ledger.calls() == 120
    assert {line["result"]["attempts"] for line in read_jsonl(tmp_path / "out.jsonl")} == {1}
    summary = summary_of(tmp_path / "out.jsonl")
    assert summary["requests"] == 120, "a call that never left is no request"
    assert (summary["ambiguous"], summary["cost_usd"]["at_risk"]) == (0, "0")


def test_a_server_that_goes_away_in_the_middle_is_waited_for(
    cli: Cli, job_file: JobFile, tmp_path: Path
) -> None:
    job = job_file(120, retry={"attempts": 2, "max_wait": "1s"}, limits={"concurrency": 8})
    with FaultServer(latency=0.02) as first:
        port = first.port
        running = cli.start("run", job, "--json", "--base-url", first.url)
        first.ledger.wait_until(lambda ledger: ledger.answered >= 40)
        first.close()
        running.line('"held"')
        with FaultServer(port=port, ledger=first.ledger) as second:
            ended = running.wait()
            assert ended.code == 0, ended.err
            executed = second.ledger.executed
    assert len(executed) == 120
    assert sum(executed.values()) - 120 <= 8, "no more than was in flight is paid again"
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 120
    summary = summary_of(tmp_path / "out.jsonl")
    assert summary["rows"]["ok"] == 120
    assert sum(executed.values()) - 120 <= summary["ambiguous"] <= 16


# --- faults of a row, a model, an account -------------------------------------------------------------


def test_poison_rows_fail_after_their_attempts_and_the_others_are_answered(
    cli: Cli, server: FaultServer, job_file: JobFile, tmp_path: Path
) -> None:
    rows = [{"id": f"r{n}", "text": f"row=r{n}{' poison' * (n in (7, 31, 50))}"} for n in range(1, 61)]
    job = job_file(rows, retry={"attempts": 3, "max_wait": "1s"})
    server.script = named_script("poison:poison")
    assert cli("run", job).code == 3
    lines = read_jsonl(tmp_path / "out.jsonl")
    failed = {line["id"]: line["error"] for line in lines if line["result"] is None}
    assert set(failed) == {"r7", "r31", "r50"}
    for fault in failed.values():
        assert (fault["code"], fault["status"], fault["attempts"]) == ("server_error", 500, 3)
    seen = by_row(server)
    assert {row: len(arrivals) for row, arrivals in seen.items() if len(arrivals) > 1} == dict.fromkeys(
        failed, 3
    )
    assert [line["id"] for line in read_jsonl(tmp_path / "out.jsonl.errors.jsonl")] == ["r7", "r31", "r50"]
    assert summary_of(tmp_path / "out.jsonl")["rows"] == {
        "in": 60, "ok": 57, "failed": 3, "invalid": 0, "skipped": 0,
    }  # fmt: skip

    calls = server.ledger.calls()
    assert cli("run", job).code == 3
    assert server.ledger.calls() == calls, "the same command again says 3 at once"

    server.script = named_script("ok")
    assert cli("retry", "last").code == 0
    assert server.ledger.calls() == calls + 3
    assert all(line["result"] for line in read_jsonl(tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()


def test_a_prompt_that_is_too_long_is_asked_once(
    cli: Cli, server: FaultServer, requests_file: RequestsFile, tmp_path: Path
) -> None:
    server.script = named_script("context:row=r5 ")
    assert cli("run", requests_file(20), "-o", "out.jsonl").code == 3
    assert {len(arrivals) for arrivals in by_row(server).values()} == {1}
    line = read_jsonl(tmp_path / "out.jsonl")[4]
    assert line["response"]["status_code"] == 400
    assert line["error"]["code"] == "context_length_exceeded"
    assert summary_of(tmp_path / "out.jsonl")["errors"] == {"context_length_exceeded": 1}


def test_a_model_that_is_gone_stops_its_own_rows_alone(cli: Cli, server: FaultServer, tmp_path: Path) -> None:
    models = ["gpt-6-luna", "gpt-5-gone", "gpt-6-sol"]
    lines = (request_line(n, body={"model": models[n % 3]}) for n in range(1, 301))
    source = write_jsonl(tmp_path / "requests.jsonl", lines)
    server.script = slowed(named_script("model-gone:gpt-5-gone"), 0.01)
    assert cli("run", source, "-o", "out.jsonl", "--concurrency", "12").code == 3
    found = read_jsonl(tmp_path / "out.jsonl")
    failed = [line for line in found if line["error"] is not None]
    assert [line["custom_id"] for line in failed] == [f"r{n}" for n in range(1, 301) if n % 3 == 1]
    assert {line["error"]["code"] for line in failed} == {"model_not_found"}
    assert sum(server.ledger.executed.values()) == 200
    assert server.ledger.behaviours["404-model_not_found"] <= 12, "no more than were in flight"


@pytest.mark.parametrize(
    ("script", "code"),
    [("money:insufficient_quota:40", 4), ("money:project_spend_limit_exceeded:40", 4), ("auth:40", 77)],
)
def test_money_and_access_stop_the_run_with_no_call_beyond_those_in_flight(
    cli: Cli, server: FaultServer, requests_file: RequestsFile, script: str, code: int
) -> None:
    server.script = slowed(named_script(script), 0.02)
    command = ("run", requests_file(150), "-o", "out.jsonl", "--concurrency", "8")
    ended = cli(*command)
    assert ended.code == code, ended.err
    assert "again" in ended.err, "it says what to do next"
    assert 41 <= server.ledger.calls() <= 40 + 8
    server.script = named_script("ok")
    assert cli(*command).code == 0
    assert set(server.ledger.executed.values()) == {1}
    assert len(server.ledger.executed) == 150


# --- being told to wait -------------------------------------------------------------------------------


def test_the_time_that_the_server_names_is_waited_in_every_form(
    cli: Cli, server: FaultServer, requests_file: RequestsFile
) -> None:
    forms: dict[str, tuple[Behaviour, float]] = {
        "r1": (limited([("Retry-After", "1")]), 1.0),
        "r2": (limited([("Retry-After", "0.4")]), 0.4),
        "r3": (limited([("retry-after-ms", "300"), ("Retry-After", "1")]), 0.3),
        "r4": (rate_limited_until(0.6), 0.6),
        "r5": (limited([], "Rate limit reached. Please try again in 350ms."), 0.35),
        "r6": (
            limited([("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "250ms")]),
            0.25,
        ),
        "r7": (overloaded("0.3"), 0.3),
    }
    server.script = first_time({row: fault for row, (fault, _) in forms.items()})
    assert cli("run", requests_file(8), "-o", "out.jsonl", "--concurrency", "1").code == 0
    arrivals = server.ledger.arrivals
    assert len(arrivals) == 8 + len(forms)
    for arrival, following in pairwise(arrivals):
        if arrival.nth == 1 and arrival.marker in forms:
            asked = forms[arrival.marker][1]
            waited = following.time - arrival.time
            # A date has no fraction of a second: it may ask for up to one more.
            assert asked - 0.02 <= waited <= asked + 1.6, arrival.marker


def test_no_form_of_retry_after_breaks_the_run(
    cli: Cli, server: FaultServer, requests_file: RequestsFile, tmp_path: Path
) -> None:
    nonsense = [
        "0", "-1", "soon", "NaN", "inf", "", "1e-3", "0x10", "1, 1", "\u00bd",
        "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2015 07:28:00 GMT", "Thu, 01 Jan 1970 00:00:00",
        formatdate(0), "2015-10-21T07:28:00Z",
    ]  # fmt: skip
    faults = {f"r{n}": limited([("Retry-After", text)]) for n, text in enumerate(nonsense, 1)}
    server.script = slowed(first_time(faults), 0.01)
    ended = cli("run", requests_file(60), "-o", "out.jsonl")
    assert ended.code == 0, ended.err
    assert ended.seconds < 45
    assert server.ledger.calls() <= 60 + len(nonsense)
    assert summary_of(tmp_path / "out.jsonl")["rate_limited"] == len(nonsense)


def test_a_wait_longer_than_allowed_pauses_the_run(
    cli: Cli, server: FaultServer, requests_file: RequestsFile
) -> None:
    server.script = first_time({"r3": limited([("Retry-After", "1e9")])})
    command = ("run", requests_file(20), "-o", "out.jsonl", "--concurrency", "1")
    ended = cli(*command)
    assert ended.code == 4
    assert "UTC" in ended.err, "it says until when"
    assert server.ledger.calls() == 3
    assert cli(*command).code == 0
    assert len(server.ledger.executed) == 20
    assert set(server.ledger.executed.values()) == {1}


# --- answers that are none ----------------------------------------------------------------------------


def test_an_answer_cut_at_any_byte_is_asked_again(
    cli: Cli, server: FaultServer, requests_file: RequestsFile, tmp_path: Path
) -> None:
    cuts = [
        *(cut(keep) for keep in (0, 1, 30, 200, -200, -20, -2, -1)),
        *(cut_message(keep) for keep in (1, 9, 20, 60)),
        *(chunked(16, cut_at=keep) for keep in (1, 50, -30, -7, -3)),
        cut(60, with_reset=True),
    ]
    rows = [f"r{1 + 10 * n}" for n in range(len(cuts))]
    server.script = slowed(first_time(dict(zip(rows, cuts, strict=True))), 0.005)
    ended = cli("run", requests_file(10 * len(cuts)), "-o", "out.jsonl", "--concurrency", "8")
    assert ended.code == 0, ended.err
    executed = {a.marker: server.ledger.executed[a.sha] for a in server.ledger.arrivals}
    assert {row for row, count in executed.items() if count > 1} == set(rows)
    assert max(executed.values()) == 2
    assert all(line["error"] is None for line in read_jsonl(tmp_path / "out.jsonl"))
    assert summary_of(tmp_path / "out.jsonl")["ambiguous"] == len(cuts)


def test_a_200_of_the_wrong_shape_is_kept_and_the_row_asked_again(
    cli: Cli, server: FaultServer, requests_file: RequestsFile, store: Path, tmp_path: Path
) -> None:
    wrong = {
        "r2": html(200),
        "r5": error_in_200(),
        "r9": Behaviour(name="list", executed=True, body=b"[1, 2]"),
    }
    server.script = first_time(wrong)
    assert cli("run", requests_file(12), "-o", "out.jsonl").code == 0
    with closing(sqlite3.connect(store)) as database:
        kept = [body for (body,) in database.execute("SELECT body FROM answer ORDER BY id")]
    assert len(kept) == 12 + 3
    for fault in wrong.values():
        assert fault.body in kept
    assert all(line["error"] is None for line in read_jsonl(tmp_path / "out.jsonl"))
    assert {row: len(found) for row, found in by_row(server).items() if len(found) > 1} == dict.fromkeys(
        wrong, 2
    )
    assert summary_of(tmp_path / "out.jsonl")["tokens"]["total"] > 0


# --- what the user says of unknown fates --------------------------------------------------------------


def test_on_ambiguous_hold_waits_for_the_user(
    cli: Cli, server: FaultServer, requests_file: RequestsFile, prices: Path, tmp_path: Path
) -> None:
    server.script = first_time({"r4": lost(), "r8": html(502)})
    command = ("run", requests_file(30), "-o", "out.jsonl", "--prices", prices, "--on-ambiguous", "hold")
    ended = cli(*command)
    assert ended.code == 4
    assert "runner retry" in ended.err
    assert server.ledger.calls() == 30
    assert not (tmp_path / "out.jsonl").exists(), "the run is not finished"
    assert cli(*command).code == 4
    assert server.ledger.calls() == 30, "held rows wait, however often the command is repeated"
    assert cli("retry", "last", "--prices", prices).code == 0
    assert server.ledger.calls() == 32
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 30
    summary = summary_of(tmp_path / "out.jsonl")
    assert summary["ambiguous"] == 2
    assert Decimal(summary["cost_usd"]["at_risk"]) > 0


def test_on_ambiguous_fail_asks_once(
    cli: Cli, server: FaultServer, requests_file: RequestsFile, tmp_path: Path
) -> None:
    server.script = first_time({"r4": lost(), "r8": html(502)})
    assert cli("run", requests_file(30), "-o", "out.jsonl", "--on-ambiguous", "fail").code == 3
    assert server.ledger.calls() == 30
    failed = [line["custom_id"] for line in read_jsonl(tmp_path / "out.jsonl") if line["error"] is not None]
    assert failed == ["r4", "r8"]
    assert summary_of(tmp_path / "out.jsonl")["rows"]["failed"] == 2


def test_what_a_stopped_run_left_in_flight_is_held_where_the_user_wants_that(
    cli: Cli, requests_file: RequestsFile, tmp_path: Path
) -> None:
    gate = Gate()

    def script(arrival: Arrival) -> Behaviour:
        return ok().held(gate) if arrival.n > 10 else ok()

    with FaultServer(script) as server:
        command = (
            "run",
            requests_file(30),
            "-o",
            "out.jsonl",
            "--concurrency",
            "4",
            "--base-url",
            server.url,
        )
        running = cli.start(*command)
        server.ledger.wait_until(lambda ledger: ledger.in_flight == 4)
        running.process.kill()
        running.process.wait()
        gate.open()
        assert cli(*command, "--on-ambiguous", "hold").code == 4
        assert server.ledger.calls() == 30, "the other rows are asked, those four are not"
        assert cli("retry", "last", "--base-url", server.url).code == 0
        assert server.ledger.calls() == 34
    assert summary_of(tmp_path / "out.jsonl")["ambiguous"] == 4


def test_what_every_row_is_refused_for_costs_a_few_dozen_calls_and_says_why(
    cli: Cli, server: FaultServer, requests_file: RequestsFile
) -> None:
    server.script = named_script("always:400")
    ended = cli("run", requests_file(2_000), "-o", "out.jsonl")
    assert ended.code == 78, ended.err
    assert "refused alike" in ended.err
    assert "invalid_value" in ended.err
    assert server.ledger.calls() <= 60
