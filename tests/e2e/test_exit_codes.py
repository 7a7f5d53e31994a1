"""Every exit code of the product, from the real command."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from decimal import Decimal
from pathlib import Path

import orjson
import pytest
from e2e.conftest import read_jsonl
from faultserver import Arrival, Behaviour, FaultServer, Gate, error, ok, rate_limited

PRICES = {
    "as_of": "2026-11-01",
    "models": {"gpt-6-luna": {"input": "0", "cached_input": "0", "cache_write": "0", "output": "1000000"}},
}
"""A dollar for each token of output, nothing for input."""

MONEY_CODES = (
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
)

AUDITED = """
import sys

def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo") or (event == "import" and args[0] == "uvloop"):
        with open({log!r}, "a") as log:
            log.write(f"{{event}} {{args[0]}}\\n")

sys.addaudithook(hook)
"""
"""Notes each connection that Python makes, and the import of the one loop that connects behind its back."""


def prices_file(folder: Path) -> Path:
    path = folder / "prices.json"
    path.write_bytes(orjson.dumps(PRICES))
    return path


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """The output files as they are: time of change and bytes."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("out.jsonl*")}


def test_0_every_row_answered_and_again_nothing_is_asked_or_written(cli, server, job_file, tmp_path) -> None:
    first = cli("run", job_file())
    assert first.code == 0, first.err
    assert first.out == b""
    assert [row["id"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["r1", "r2", "r3"]
    assert all(row["result"]["output"] for row in read_jsonl(tmp_path / "out.jsonl"))
    before = state_of(tmp_path)
    again = cli("run", "job.yaml")
    assert again.code == 0
    assert "Nothing to do" in again.err
    assert server.ledger.calls() == 3
    assert state_of(tmp_path) == before
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()


def test_2_what_the_command_line_cannot_mean(cli, server, job_file, requests_file) -> None:
    requests_file(1)
    job_file(name="no_output.yaml", output=None)
    job_file(name="auto.yaml", mode="auto")
    job_file(name="no_input.yaml", input=None)
    tried = {
        ("run", "requests.jsonl", "--no-such-option"): "--no-such-option",
        ("run",): "JOB_OR_REQUESTS",
        ("rnu", "requests.jsonl"): "'run'",
        ("run", "no_output.yaml"): "output",
        ("run", "no_input.yaml"): "input",
        ("run", "auto.yaml"): "deadline",
        ("run", "requests.jsonl", "--mode", "auto"): "deadline",
        ("run", "missing.jsonl"): "missing.jsonl",
        ("run", "-"): "-o",
        ("run", "requests.jsonl", "-i", "other.jsonl"): "--input",
        ("run", "requests.jsonl", "--limit", "0"): "--limit",
        ("run", "requests.jsonl", "--budget", "much"): "--budget",
        ("status", "last"): "'last'",
        ("resume", "last", "--store", "sqlite:///none.db"): "no store",
        ("new", "no_such_recipe"): "classify_tickets",
    }
    running = [(cli.start(*command), command, word) for command, word in tried.items()]
    for one, command, word in running:
        ended = one.wait()
        assert ended.code == 2, (command, ended)
        assert word in ended.err, (command, ended.err)
        assert ended.out == b"", command
    assert server.ledger.calls() == 0


def test_2_an_unknown_run_names_itself(cli, server, requests_file, tmp_path) -> None:
    assert cli("run", requests_file(1)).code == 0
    commands = [("status",), ("resume",), ("export",), ("forget", "--yes")]
    running = [cli.start(command, "zzzz", *rest) for command, *rest in commands]
    for one in running:
        ended = one.wait()
        assert ended.code == 2, ended
        assert "zzzz" in ended.err
    assert server.ledger.calls() == 1


def test_3_a_failed_row_and_again_the_same_at_once_without_a_call(cli, server, job_file, tmp_path) -> None:
    server.script = "context:row=r2"
    first = cli("run", job_file())
    assert first.code == 3, first.err
    assert "retry" in first.err
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [row["id"] for row in rows] == ["r1", "r2", "r3"]
    assert rows[1]["result"] is None
    assert rows[1]["error"]["code"] == "context_length_exceeded"
    assert rows[1]["error"]["status"] == 400
    assert rows[1]["error"]["attempts"] == 1
    assert read_jsonl(tmp_path / "out.jsonl.errors.jsonl") == [rows[1]]
    before = state_of(tmp_path)
    again = cli("run", "job.yaml")
    assert again.code == 3
    assert server.ledger.calls() == 3
    assert state_of(tmp_path) == before


def test_4_the_budget_is_never_overshot_and_a_larger_one_goes_on(
    cli, server, requests_file, tmp_path
) -> None:
    command = ["run", requests_file(8), "-o", "out.jsonl", "--prices", prices_file(tmp_path)]
    paused = cli(*command, "--budget", "60", "--concurrency", "4")
    assert paused.code == 4, paused.err
    assert "budget" in paused.err
    assert "--budget" in paused.err
    spent = server.ledger.usage["output"]
    assert 0 < spent <= 60
    assert not (tmp_path / "out.jsonl").exists()
    assert cli(*command, "--budget", "60").code == 4
    assert server.ledger.usage["output"] == spent
    assert cli(*command, "--budget", "10000").code == 0
    assert set(server.ledger.executed.values()) == {1}
    assert len(server.ledger.executed) == 8
    summary = orjson.loads((tmp_path / "out.jsonl.summary.json").read_bytes())
    assert Decimal(summary["cost_usd"]["total"]) == server.ledger.usage["output"]


def test_4_no_money_stops_the_run_whatever_the_code_says_it(cli, requests_file, tmp_path) -> None:
    requests_file(30)
    servers = {code: FaultServer(f"money:{code}:4") for code in MONEY_CODES}
    running = {}
    for code, server in servers.items():
        server.__enter__()
        running[code] = cli.start(
            "run", "requests.jsonl", "-o", f"{code}.jsonl", "--base-url", server.url, "--concurrency", "2"
        )
    for code, one in running.items():
        ended = one.wait()
        assert ended.code == 4, ended
        assert code in ended.err
        assert servers[code].ledger.calls() <= 4 + 2
        assert not (tmp_path / f"{code}.jsonl").exists()
    mended = servers[MONEY_CODES[0]]
    mended.script = "ok"
    again = cli("run", "requests.jsonl", "-o", f"{MONEY_CODES[0]}.jsonl", "--base-url", mended.url)
    assert again.code == 0, again.err
    assert set(mended.ledger.executed.values()) == {1}
    assert len(mended.ledger.executed) == 30
    for server in servers.values():
        server.close()


def test_4_a_wait_longer_than_max_wait_pauses_and_says_until_when(cli, server, job_file, tmp_path) -> None:
    server.script = lambda arrival: ok() if arrival.n < 3 else rate_limited("3600")
    paused = cli("run", job_file(6, retry={"max_wait": "30s"}), "--concurrency", "1")
    assert paused.code == 4, paused.err
    assert server.ledger.calls() == 3
    assert "same command" in paused.err
    server.script = "ok"
    assert cli("run", "job.yaml").code == 0
    assert set(server.ledger.executed.values()) == {1}


def test_5_another_process_is_running_this_series(cli, server, requests_file, tmp_path) -> None:
    gate = Gate()
    server.script = lambda arrival: ok().held(gate)
    first = cli.start("run", requests_file(2), "-o", "out.jsonl")
    server.ledger.wait_until(lambda ledger: ledger.in_flight == 1)
    second = cli.start("run", "requests.jsonl", "-o", "out.jsonl")
    tolerant = cli.start("run", "requests.jsonl", "-o", "elsewhere.jsonl", "--if-locked", "ok")
    refused = second.wait()
    assert refused.code == 5, refused
    for word in (str(first.pid), socket.gethostname(), "since 2"):
        assert word in refused.err
    assert tolerant.wait().code == 0
    gate.open()
    assert first.wait().code == 0
    assert server.ledger.calls() == 2
    assert not (tmp_path / "elsewhere.jsonl").exists()


def bad_lines(folder: Path) -> Path:
    """Thirty lines, of which twenty-five (3 to 27) are no JSON."""
    path = folder / "bad.jsonl"
    good = [
        orjson.dumps(
            {
                "custom_id": f"r{n}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "gpt-6-luna", "messages": [{"role": "user", "content": f"row=r{n}"}]},
            }
        )
        for n in range(1, 31)
    ]
    path.write_bytes(
        b"".join((line[:-3] if 3 <= n <= 27 else line) + b"\n" for n, line in enumerate(good, 1))
    )
    return path


def test_65_bad_lines_are_all_listed_and_none_is_asked(cli, server, tmp_path) -> None:
    refused = cli("run", bad_lines(tmp_path), "-o", "out.jsonl")
    assert refused.code == 65
    named = [line for line in refused.err.split("\n") if line.strip().startswith("line ")]
    assert len(named) == 20
    assert [int(line.split()[1].strip(":")) for line in named] == list(range(3, 23))
    assert "25 of 30" in refused.err
    assert "--skip-invalid" in refused.err
    listed = read_jsonl(tmp_path / "out.jsonl.errors.jsonl")
    assert [one["line"] for one in listed] == list(range(3, 28))
    assert server.ledger.calls() == 0
    assert not (tmp_path / "out.jsonl").exists()
    skipping = cli("run", "bad.jsonl", "-o", "out.jsonl", "--skip-invalid")
    assert skipping.code == 3, skipping.err
    assert server.ledger.calls() == 5
    out = read_jsonl(tmp_path / "out.jsonl")
    assert len(out) == 30
    assert [n for n, line in enumerate(out, 1) if line["error"] is not None] == list(range(3, 28))
    summary = orjson.loads((tmp_path / "out.jsonl.summary.json").read_bytes())
    assert summary["rows"] == {"in": 30, "ok": 5, "failed": 0, "invalid": 25, "skipped": 0}


def test_65_no_row_no_field_and_two_rows_with_one_key(cli, server, job_file, tmp_path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    (tmp_path / "no_text.jsonl").write_bytes(b'{"id": "x"}\n{"id": "y", "text": null}\n')
    job_file([{"id": "a", "text": "one"}, {"id": "b", "text": "two"}, {"id": "a", "text": "three"}])
    running = {
        name: cli.start("run", "job.yaml", "-o", f"{name}.out.jsonl", *source)
        for name, source in {
            "doubled": (),
            "lost": ("-i", "no_text.jsonl"),
            "none": ("-i", "empty.jsonl"),
        }.items()
    }
    said = {name: one.wait() for name, one in running.items()}
    assert {name: ended.code for name, ended in said.items()} == {"doubled": 65, "lost": 65, "none": 65}
    assert "no row" in said["none"].err
    assert "line 3" in said["doubled"].err
    assert "line 1" in said["doubled"].err
    assert "line 1 (key x)" in said["lost"].err
    assert "line 2 (key y)" in said["lost"].err
    assert "text" in said["lost"].err
    assert server.ledger.calls() == 0


def test_73_an_output_that_cannot_be_or_is_not_ours(cli, server, requests_file, tmp_path) -> None:
    requests_file(2)
    (tmp_path / "folder").mkdir()
    (tmp_path / "theirs.jsonl").write_text("precious\n")
    (tmp_path / "file").write_text("no folder\n")
    (tmp_path / "sum.jsonl.summary.json").write_text("precious\n")
    running = {
        output: cli.start("run", requests_file(2, f"{number}.jsonl"), "-o", output)
        for number, output in enumerate(
            ("folder", "theirs.jsonl", "file/out.jsonl", "sum.jsonl", "/dev/null")
        )
    }
    for output, one in running.items():
        ended = one.wait()
        assert ended.code == 73, (output, ended)
        assert output in ended.err
    assert server.ledger.calls() == 0
    assert (tmp_path / "theirs.jsonl").read_text() == "precious\n"
    assert (tmp_path / "sum.jsonl.summary.json").read_text() == "precious\n"
    replaced = cli("run", "requests.jsonl", "-o", "theirs.jsonl", "--overwrite")
    assert replaced.code == 0, replaced.err
    assert len(read_jsonl(tmp_path / "theirs.jsonl")) == 2
    made = cli("run", "requests.jsonl", "-o", "new/folder/out.jsonl")
    assert made.code == 0, made.err
    assert len(read_jsonl(tmp_path / "new" / "folder" / "out.jsonl")) == 2
    assert server.ledger.calls() == 2


def test_73_a_file_that_was_changed_since_is_not_ours_any_more(cli, server, requests_file, tmp_path) -> None:
    assert cli("run", requests_file(1), "-o", "out.jsonl").code == 0
    (tmp_path / "out.jsonl").write_text("somebody's edit\n")
    ended = cli("run", "requests.jsonl", "-o", "out.jsonl")
    assert ended.code == 73, ended
    assert (tmp_path / "out.jsonl").read_text() == "somebody's edit\n"


def test_three_processes_make_the_store_at_once_and_none_waits_for_ever(
    cli, server, requests_file, store
) -> None:
    store.unlink()
    running = [cli.start("run", requests_file(2, f"{number}.jsonl")) for number in range(3)]
    assert [one.wait(20).code for one in running] == [0, 0, 0]
    assert server.ledger.calls() == 6


def test_74_a_store_that_is_none(cli, server, requests_file, tmp_path) -> None:
    requests_file(1)
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "text.db").write_text("This is a text, not a database, and longer than a header. " * 50)
    (tmp_path / "file").write_text("x")
    database = sqlite3.connect(tmp_path / "foreign.db")
    database.execute("CREATE TABLE theirs (x)")
    database.close()
    running = {
        name: cli.start("run", "requests.jsonl", "-o", "out.jsonl", "--store", f"sqlite:///{tmp_path}/{name}")
        for name in ("folder.db", "text.db", "file/store.db", "foreign.db")
    }
    for name, one in running.items():
        ended = one.wait()
        assert ended.code == 74, (name, ended)
        assert name.split("/")[0] in ended.err
    assert (tmp_path / "text.db").read_text().startswith("This is a text")
    looked = cli("status", "--store", f"sqlite:///{tmp_path}/text.db")
    assert looked.code == 74, looked
    assert server.ledger.calls() == 0


def test_77_no_key_and_not_one_connection(cli, server, requests_file, tmp_path) -> None:
    log = tmp_path / "touched"
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(AUDITED.format(log=str(log)))
    cli.env["PYTHONPATH"] = str(site)
    refused = cli("run", requests_file(1), env={"OPENAI_BASE_URL": None, "OPENAI_API_KEY": None})
    assert refused.code == 77, refused
    for way in ("OPENAI_API_KEY", "--provider sim", "--base-url", "https://api.openai.com"):
        assert way in refused.err
    assert not log.exists()
    assert not (tmp_path / "requests.results.jsonl").exists()
    keyless = cli("run", "requests.jsonl", env={"OPENAI_API_KEY": None})
    assert keyless.code == 0, keyless.err
    assert log.exists()


@pytest.mark.parametrize("status", [401, 403])
def test_77_a_refused_key_costs_no_further_call(status, cli, server, requests_file) -> None:
    gate = Gate()
    code = {401: "invalid_api_key", 403: "unsupported_country_region_territory"}[status]

    def script(arrival: Arrival) -> Behaviour:
        return ok() if arrival.n <= 3 else error(status, code).held(gate)

    server.script = script
    running = cli.start("run", requests_file(20), "--concurrency", "2")
    server.ledger.wait_until(lambda ledger: ledger.calls() == 5)
    gate.open()
    ended = running.wait()
    assert ended.code == 77, ended
    assert code in ended.err
    assert "OPENAI_API_KEY" in ended.err
    assert server.ledger.calls() == 5
    server.script = "ok"
    assert cli("run", "requests.jsonl").code == 0
    assert set(server.ledger.executed.values()) == {1}
    assert len(server.ledger.executed) == 20


def test_78_a_job_file_says_all_its_faults_with_their_lines(cli, server, tmp_path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": 1, "text": "x"}\n')
    (tmp_path / "bad.yaml").write_text(
        "name: Not A Name\n"
        "endpoint: chta\n"
        "modle: gpt-6-luna\n"
        "input: rows.jsonl\n"
        "output: out.jsonl\n"
        "request:\n"
        "  messages: [{role: user, content: '{{ text }'}]\n"
        "retry: {attempts: many}\n"
    )
    ended = cli("run", "bad.yaml")
    assert ended.code == 78, ended
    for line, word in ((1, "name"), (2, "chat"), (3, "model"), (7, "messages"), (8, "attempts")):
        assert any(f"bad.yaml:{line}" in said and word in said for said in ended.err.split("\n")), (
            line,
            ended.err,
        )
    assert server.ledger.calls() == 0


def test_78_a_budget_without_a_price_and_a_store_of_a_newer_version(
    cli, server, requests_file, store, tmp_path
) -> None:
    unpriced = cli("run", requests_file(2), "--budget", "5")
    assert unpriced.code == 78, unpriced
    assert "gpt-6-luna" in unpriced.err
    assert "--prices" in unpriced.err
    assert server.ledger.calls() == 0
    newer = tmp_path / "newer.db"
    shutil.copyfile(store, newer)
    database = sqlite3.connect(newer)
    database.execute("PRAGMA user_version=9999")
    database.commit()
    database.close()
    for command in (("run", "requests.jsonl"), ("status",)):
        refused = cli(*command, "--store", f"sqlite:///{newer}")
        assert refused.code == 78, refused
        assert "newer version" in refused.err
    (tmp_path / "prices.json").write_text("{}")
    assert cli("run", "requests.jsonl", "--prices", "prices.json").code == 78
    assert server.ledger.calls() == 0


def test_78_a_budget_stops_before_a_row_that_nothing_bounds(cli, server, job_file, tmp_path) -> None:
    search = [{"type": "web_search"}]
    job = job_file(
        [
            {"id": "plain", "text": "row=plain", "tools": []},
            {"id": "search", "text": "row=search", "tools": search},
        ],
        endpoint="responses",
        request={"input": "{{ text }}", "tools": "{{ tools }}", "max_output_tokens": 50},
    )

    ended = cli("run", job, "--budget", "100000", "--prices", prices_file(tmp_path))

    assert ended.code == 78
    assert "Line 2" in ended.err
    assert [one.marker for one in server.ledger.arrivals] == ["plain"]
