"""Every command as its user meets it: what it does, what it prints where, and what it leaves alone."""

from __future__ import annotations

import gzip
import signal
import sqlite3
import urllib.request
from collections import Counter
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from e2e.conftest import Ended, read_jsonl
from faultserver import FaultServer, Gate, ok

CANARY = "violet-heron-4471"


def summary_of(output: Path) -> dict:
    return orjson.loads(output.with_name(f"{output.name}.summary.json").read_bytes())


def asked(server: FaultServer, since: int = 0) -> Counter[str | None]:
    """Which rows were asked, and how often, after the first `since` requests."""
    return Counter(arrival.marker for arrival in server.ledger.arrivals[since:] if arrival.paid)


def run_of(ended: Ended) -> str:
    """The id of the run that a start named on its screen."""
    return ended.err.partition("Run ")[2].split()[0]


def bytes_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


# resume, retry


def test_resume_by_a_beginning_of_its_id_from_elsewhere_without_the_input(
    cli, server, requests_file, tmp_path
) -> None:
    server.script = "money:insufficient_quota:3"
    source = requests_file(9)
    paused = cli("run", source, "-o", "out.jsonl", "--concurrency", "1")
    assert paused.code == 4
    source.unlink()
    server.script = "ok"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ended = cli("resume", run_of(paused)[:4], cwd=elsewhere)
    assert ended.code == 0, ended.err
    assert ended.out == b""
    assert set(server.ledger.executed.values()) == {1}
    out = read_jsonl(tmp_path / "out.jsonl")
    assert [line["custom_id"] for line in out] == [f"r{n}" for n in range(1, 10)]
    assert list(elsewhere.iterdir()) == []
    calls = server.ledger.calls()
    again = cli("resume", "last", cwd=elsewhere)
    assert again.code == 0
    assert server.ledger.calls() == calls


def test_resume_refuses_another_account(cli, server, requests_file) -> None:
    server.script = "money:insufficient_quota:1"
    assert cli("run", requests_file(3), "--concurrency", "1").code == 4
    with FaultServer() as other:
        refused = cli("resume", "last", "--base-url", other.url)
        assert refused.code == 2, refused
        assert server.url.removesuffix("/v1") in refused.err
        assert other.ledger.calls() == 0


def test_retry_asks_the_failed_rows_and_nothing_else(cli, server, job_file, tmp_path) -> None:
    server.script = "context:row=r2+context:row=r4"
    assert cli("run", job_file(5)).code == 3
    calls = server.ledger.calls()
    still = cli("retry", "last")
    assert still.code == 3
    assert asked(server, calls) == {"r2": 1, "r4": 1}
    server.script = "ok"
    ended = cli("retry", "last")
    assert ended.code == 0, ended.err
    assert asked(server, calls + 2) == {"r2": 1, "r4": 1}
    assert all(row["result"] for row in read_jsonl(tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()
    assert summary_of(tmp_path / "out.jsonl")["rows"]["ok"] == 5
    assert cli("retry", "last").code == 0
    assert server.ledger.calls() == calls + 4


def test_a_held_row_waits_for_its_user_and_retry_asks_it(cli, server, requests_file, tmp_path) -> None:
    server.script = "first:lost"
    held = cli("run", requests_file(2), "-o", "out.jsonl", "--on-ambiguous", "hold")
    assert held.code == 4, held
    assert "runner retry" in held.err
    assert server.ledger.calls() == 2
    assert cli("run", "requests.jsonl", "-o", "out.jsonl", "--on-ambiguous", "hold").code == 4
    assert server.ledger.calls() == 2
    assert cli("retry", "last").code == 0
    assert server.ledger.calls() == 4
    assert summary_of(tmp_path / "out.jsonl")["rows"]["ok"] == 2


# export


def test_export_draws_the_same_bytes_again_at_no_cost(cli, server, requests_file, tmp_path) -> None:
    ran = cli("run", requests_file(4), "-o", "out.jsonl")
    assert ran.code == 0
    output = tmp_path / "out.jsonl"
    drawn = output.read_bytes()
    output.unlink()
    assert cli("export", "last").code == 0
    assert output.read_bytes() == drawn
    copied = cli("export", run_of(ran), "-o", "copies/copy.jsonl")
    assert copied.code == 0, copied.err
    assert copied.out == b""
    assert (tmp_path / "copies" / "copy.jsonl").read_bytes() == drawn
    assert server.ledger.calls() == 4
    (tmp_path / "theirs.jsonl").write_text("theirs\n")
    assert cli("export", "last", "-o", "theirs.jsonl").code == 73
    assert (tmp_path / "theirs.jsonl").read_text() == "theirs\n"


def test_export_of_an_unfinished_run_only_as_a_part(cli, server, job_file, tmp_path) -> None:
    server.script = "money:insufficient_quota:2"
    assert cli("run", job_file(6), "--concurrency", "1").code == 4
    refused = cli("export", "last")
    assert refused.code == 2
    assert "--partial" in refused.err
    partial = cli("export", "last", "--partial")
    assert partial.code == 3, partial.err
    assert "4 skipped" in partial.err
    counted = summary_of(tmp_path / "out.jsonl")["rows"]
    assert counted == {"in": 6, "ok": 2, "failed": 0, "invalid": 0, "skipped": 4}
    out = read_jsonl(tmp_path / "out.jsonl")
    assert [row["id"] for row in out if row["result"]] == ["r1", "r2"]
    server.script = "ok"
    assert cli("run", "job.yaml").code == 0
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 6
    assert set(server.ledger.executed.values()) == {1}


# cancel, forget


def test_cancel_stops_the_running_process_which_keeps_what_was_paid(
    cli, server, requests_file, tmp_path
) -> None:
    slow = ok().after(0.05)
    server.script = lambda arrival: slow
    running = cli.start("run", requests_file(400), "-o", "out.jsonl", "--concurrency", "4")
    server.ledger.wait_until(lambda ledger: ledger.answered >= 4)
    cancelled = cli("cancel", "last")
    assert cancelled.code == 0
    assert str(running.pid) in cancelled.err
    ended = running.wait()
    assert ended.code == 4, ended
    assert "cancel" in ended.err
    paid = len(server.ledger.executed)
    assert 4 <= paid < 400
    assert not (tmp_path / "out.jsonl").exists()
    server.script = "ok"
    assert cli("run", "requests.jsonl", "-o", "out.jsonl").code == 0
    assert server.ledger.calls() == 400
    assert set(server.ledger.executed.values()) == {1}


def test_cancel_of_a_run_that_nobody_runs_and_the_same_command_goes_on(cli, server, requests_file) -> None:
    server.script = "money:insufficient_quota:1"
    assert cli("run", requests_file(3), "--concurrency", "1").code == 4
    assert "cancelled" in cli("cancel", "last").err
    assert cli("status", "last", "--json").json["state"] == "cancelled"
    server.script = "ok"
    assert cli("run", "requests.jsonl").code == 0
    assert set(server.ledger.executed.values()) == {1}
    assert "nothing to stop" in cli("cancel", "last").err


def test_forget_leaves_no_trace_of_rows_and_answers(cli, server, job_file, store, tmp_path) -> None:
    rows = [{"id": f"{CANARY}-{n}", "text": f"row=r{n} {CANARY}"} for n in range(40)]
    rows[7]["text"] += "\u00e9" * 5000
    assert cli("run", job_file(rows)).code == 0
    answer = read_jsonl(tmp_path / "out.jsonl")[7]["result"]["output"].encode()
    kept = bytes_below(store.parent)
    assert CANARY.encode() in kept
    assert answer in kept
    unsure = cli("forget", "last", stdin=b"n\n")
    assert unsure.code != 0
    assert bytes_below(store.parent).count(CANARY.encode()) == kept.count(CANARY.encode())
    forgotten = cli("forget", "last", "--yes")
    assert forgotten.code == 0, forgotten.err
    left = bytes_below(store.parent)
    assert CANARY.encode() not in left
    assert answer not in left
    assert cli("status", "--json").json == []
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 40
    assert cli("run", "job.yaml").code == 0
    assert set(server.ledger.executed.values()) == {2}


# plan, status, doctor


def test_plan_says_before_a_cent_is_spent_and_touches_nothing(
    cli, server, requests_file, store, tmp_path
) -> None:
    store.unlink()
    planned = cli("plan", requests_file(5), "--json", "--provider", "sim", "--budget", "1")
    assert planned.code == 0, planned.err
    found = planned.json
    assert found["rows"]["in"] == 5
    assert found["tasks"]["to_ask"] == found["calls"] == 5
    assert found["tokens"]["input"] > 0
    assert found["tokens"]["output_at_most"] == 5 * 50
    assert set(found["cost_usd"]) == {"online", "flex", "batch"}
    assert float(found["cost_usd"]["batch"]["most"]) < float(found["cost_usd"]["online"]["most"])
    assert found["budget"]["calls_in_flight"] > 0
    assert not store.exists()
    assert cli("run", "requests.jsonl", "--limit", "2").code == 0
    calls = server.ledger.calls()
    after = cli("plan", "requests.jsonl", "--json")
    assert after.json["tasks"] == {
        "to_ask": 3,
        "answered_before": 2,
        "repeats": 0,
        "need_retry": 0,
        "in_batches": 0,
    }
    assert after.json["cost_usd"]["online"] == {"least": None, "most": None}
    words = cli("plan", "requests.jsonl").out.decode()
    assert "2 answered before" in words
    assert server.ledger.calls() == calls


def test_plan_lists_bad_lines_and_needs_no_key(cli, server, tmp_path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"custom_id": "a"}\nnot json\n')
    keyless = {"OPENAI_API_KEY": None, "OPENAI_BASE_URL": None}
    refused = cli("plan", "bad.jsonl", env=keyless)
    assert refused.code == 65
    assert "line 1" in refused.err
    assert "line 2" in refused.err
    assert refused.out == b""
    assert {path.name for path in tmp_path.iterdir()} == {"bad.jsonl", "data"}
    assert server.ledger.calls() == 0


def test_status_of_a_running_run_never_blocks_it_and_changes_nothing(
    cli, server, job_file, store, tmp_path
) -> None:
    gate = Gate()
    server.script = lambda arrival: ok() if arrival.n <= 3 else ok().held(gate)
    running = cli.start("run", job_file(8), "--concurrency", "2")
    server.ledger.wait_until(lambda ledger: ledger.calls() == 5)
    table = cli("status", "--json").json
    assert [one["state"] for one in table] == ["running"]
    one = cli("status", table[0]["run"], "--json").json
    assert one["state"] == "running"
    assert str(running.pid) in one["next"]
    assert one["rows"] == 8
    assert one["left"] >= 5
    gate.open()
    assert running.wait().code == 0

    before = store.read_bytes()
    finished = cli("status", "last", "--json").json
    assert (finished["state"], finished["ok"], finished["left"]) == ("finished", 8, 0)
    words = cli("status", "last")
    assert b"8 answered" in words.out
    assert words.err == ""
    assert store.read_bytes() == before
    assert server.ledger.calls() == 8


def test_somebody_who_reads_the_store_for_long_keeps_no_run_waiting(
    cli, server, requests_file, store
) -> None:
    reader = sqlite3.connect(store)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM run").fetchone() == (0,)
    ended = cli("run", requests_file(3))
    assert ended.code == 0, ended.err
    assert ended.seconds < 20
    assert reader.execute("SELECT count(*) FROM run").fetchone() == (0,)
    reader.close()


def test_status_names_the_commonest_errors_and_what_to_do(cli, server, job_file) -> None:
    server.script = "context:row=r2+context:row=r3"
    assert cli("run", job_file(3)).code == 3
    found = cli("status", "last", "--json").json
    assert found["errors"] == [{"code": "context_length_exceeded", "status": 400, "times": 2}]
    assert "retry" in found["next"]


def test_doctor_as_json(cli, server, job_file) -> None:
    assert cli("run", job_file(1)).code == 0
    checked = cli("doctor", "--json")
    verdicts = {one["check"]: one["verdict"] for one in checked.json}
    assert verdicts["store"] == verdicts["key"] == verdicts["model"] == "ok"
    assert checked.code == 0, checked
    server.script = "always:401"
    refused = cli("doctor", "--json")
    assert refused.code == 78
    assert {one["check"]: one["verdict"] for one in refused.json}["key"] == "fail"
    assert server.ledger.calls() == 1


# simulate, new


def test_simulate_serves_until_it_is_stopped_and_keeps_a_ledger(cli, requests_file, tmp_path) -> None:
    simulator = cli.start("simulate", "--port", "0", "--faults", "429=0.3@first", "--seed", "3")
    assert simulator.process.stdout is not None
    said = simulator.process.stdout.readline().decode()
    url = next(word for word in said.split() if word.startswith("http"))
    ended = cli("run", requests_file(10), "-o", "out.jsonl", "--base-url", url)
    assert ended.code == 0, ended.err
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/sim/ledger", timeout=10) as answer:
        ledger = answer.read()
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 10
    assert summary_of(tmp_path / "out.jsonl")["rate_limited"] > 0
    assert isinstance(orjson.loads(ledger), dict)
    simulator.send(signal.SIGINT)
    stopped = simulator.wait(10)
    assert stopped.code == 0, stopped


def test_new_copies_a_job_that_runs_as_it_is(cli, tmp_path) -> None:
    listed = cli("new")
    assert listed.code == 0
    for recipe in (b"classify_tickets", b"embed_corpus", b"summarize_documents"):
        assert recipe in listed.out
    made = cli("new", "classify-tickets", "mine")
    assert made.code == 0, made.err
    job = tmp_path / "mine" / "jobs" / "classify_tickets.yaml"
    ran = cli("run", job, "--provider", "sim", "--limit", "20")
    assert ran.code == 0, ran.err
    out = read_jsonl(tmp_path / "mine" / "out" / "classify_tickets.jsonl")
    assert len(out) == 20
    assert all(isinstance(row["result"]["output"], dict) for row in out)
    again = cli("new", "classify-tickets", "mine")
    assert again.code == 73
    assert "there already" in again.err


# run


def test_json_events_end_with_what_this_start_did(cli, server, requests_file) -> None:
    server.script = "money:insufficient_quota:2"
    paused = cli("run", requests_file(5), "--concurrency", "1", "--json")
    assert paused.code == 4
    assert "started" in [event["event"] for event in paused.events]
    assert (paused.events[-1]["event"], paused.events[-1]["exit_code"]) == ("stopped", 4)
    assert "insufficient_quota" in paused.events[-1]["message"]
    assert paused.events[-1]["this_start"]["answered"] == 2
    server.script = "ok"
    rest = cli("run", "requests.jsonl", "--json")
    assert rest.code == 0
    assert rest.out == b""
    assert all("at" in event for event in rest.events)
    last = rest.events[-1]
    assert (last["event"], last["exit_code"], last["did_nothing"]) == ("finished", 0, False)
    assert last["this_start"]["answered"] == 3
    assert last["this_start"]["requests"] == 3
    assert last["summary"]["rows"]["ok"] == 5
    nothing = cli("run", "requests.jsonl", "--json").events[-1]
    assert (nothing["event"], nothing["did_nothing"]) == ("finished", True)
    assert server.ledger.calls() == 6


def test_json_events_of_bad_input_name_the_lines(cli, server, tmp_path) -> None:
    (tmp_path / "bad.jsonl").write_text('not json\n{"custom_id": "a"}\n')
    refused = cli("run", "bad.jsonl", "--json")
    assert refused.code == 65
    last = refused.events[-1]
    assert (last["event"], last["exit_code"]) == ("stopped", 65)
    assert {one["line"] for one in last["faults"]} == {1, 2}


def test_standard_input_is_kept_so_that_resume_needs_none(cli, server, requests_file, tmp_path) -> None:
    server.script = "money:insufficient_quota:2"
    given = requests_file(6).read_bytes()
    paused = cli("run", "-", "-o", "out.jsonl", "--concurrency", "1", stdin=given)
    assert paused.code == 4, paused.err
    server.script = "ok"
    assert cli("resume", "last").code == 0
    assert set(server.ledger.executed.values()) == {1}
    assert [line["custom_id"] for line in read_jsonl(tmp_path / "out.jsonl")] == [
        f"r{n}" for n in range(1, 7)
    ]
    calls = server.ledger.calls()
    assert cli("run", "-", "-o", "out.jsonl", stdin=given).code == 0
    assert server.ledger.calls() == calls


def test_a_job_over_standard_input(cli, server, job_file, tmp_path) -> None:
    ended = cli("run", job_file(), "-i", "-", stdin=b'{"id": "x", "text": "row=x1"}')
    assert ended.code == 0, ended.err
    assert [row["id"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["x"]


def test_the_first_rows_and_then_everything_pays_the_rest_alone(cli, server, job_file, tmp_path) -> None:
    assert cli("run", job_file(30), "--limit", "10").code == 0
    assert server.ledger.calls() == 10
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 10
    assert cli("run", "job.yaml").code == 0
    assert server.ledger.calls() == 30
    assert set(server.ledger.executed.values()) == {1}
    out = read_jsonl(tmp_path / "out.jsonl")
    assert [row["id"] for row in out] == [f"r{n}" for n in range(1, 31)]
    assert [row["result"].get("reused") for row in out] == [True] * 10 + [None] * 20


def test_an_input_that_grew_and_was_edited_pays_what_is_new(cli, server, job_file, tmp_path) -> None:
    rows = [{"id": f"r{n}", "text": f"row=r{n}"} for n in range(1, 6)]
    assert cli("run", job_file(rows)).code == 0
    rows[1] = {"id": "r2", "text": "row=r2b"}
    job_file([*rows[1:], {"id": "r6", "text": "row=r6"}])
    assert cli("run", "job.yaml").code == 0
    assert asked(server, 5) == {"r2b": 1, "r6": 1}
    out = read_jsonl(tmp_path / "out.jsonl")
    assert [row["id"] for row in out] == ["r2", "r3", "r4", "r5", "r6"]
    assert "row=r2b" in out[0]["result"]["output"]


def test_fresh_forgets_the_answers_and_pays_again(cli, server, requests_file) -> None:
    assert cli("run", requests_file(3)).code == 0
    fresh = cli("run", "requests.jsonl", "--fresh")
    assert fresh.code == 0, fresh.err
    assert asked(server) == {"r1": 2, "r2": 2, "r3": 2}
    assert cli("run", "requests.jsonl").code == 0
    assert server.ledger.calls() == 6


def test_quiet_is_silent_on_success_and_tells_of_failure(cli, server, requests_file) -> None:
    ended = cli("run", requests_file(3), "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, b"", "")
    server.script = "always:401"
    refused = cli("run", requests_file(3, "others.jsonl"), "-q")
    assert refused.code == 77
    assert "invalid_api_key" in refused.err


def test_closed_standard_streams_do_no_harm(cli, server, requests_file, store, tmp_path) -> None:
    all_closed = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    assert cli("run", requests_file(3), "-o", "out.jsonl", under=all_closed).code == 0
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 3
    no_input = cli("run", "-", "-o", "other.jsonl", under=("sh", "-c", 'exec "$@" <&-', "sh"))
    assert no_input.code == 2, no_input
    assert "closed" in no_input.err
    with closing(sqlite3.connect(store)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_results_stand_beside_a_requests_file_packed_or_not(cli, server, requests_file, tmp_path) -> None:
    plain = requests_file(3, "plain").read_bytes()
    (tmp_path / "in").mkdir()
    running = []
    for name, ending in (("plain", ".jsonl"), ("gzip", ".jsonl.gz"), ("zstd", ".jsonl.zst")):
        (tmp_path / "in" / f"{name}{ending}").write_bytes(_packed(plain, ending))
        running.append((name, cli.start("run", f"in/{name}{ending}")))
    for name, one in running:
        assert one.wait().code == 0, one.wait().err
        out = read_jsonl(tmp_path / "in" / f"{name}.results.jsonl")
        assert [line["custom_id"] for line in out] == ["r1", "r2", "r3"]
        for number, line in enumerate(out, 1):
            assert set(line) == {"id", "custom_id", "response", "error"}
            assert line["error"] is None
            assert line["response"]["status_code"] == 200
            assert line["response"]["body"]["object"] == "chat.completion"
            assert f"row=r{number}" in line["response"]["body"]["choices"][0]["message"]["content"]


def _packed(plain: bytes, ending: str) -> bytes:
    if ending.endswith(".gz"):
        return gzip.compress(plain)
    if ending.endswith(".zst"):
        zstd = pytest.importorskip("compression.zstd" if _has_zstd() else "backports.zstd")
        return bytes(zstd.compress(plain))
    return plain


def _has_zstd() -> bool:
    import sys

    return sys.version_info >= (3, 14)
