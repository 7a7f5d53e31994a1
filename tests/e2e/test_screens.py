"""What the commands show: help, terminals, and nothing that steers a terminal or gives a secret away."""

from __future__ import annotations

import os
import pty
import re
from pathlib import Path

import click
import orjson
import pytest
from e2e.conftest import KEY, read_jsonl, write_jsonl
from faultserver import FaultServer, error

from runner.cli import COMMANDS, app

PROMPT = "violet heron 4471"
CODES = (0, 2, 3, 4, 5, 65, 73, 74, 75, 77, 78, 130)


def test_every_help_text_renders_and_names_the_exit_codes(cli) -> None:
    running = {name: cli.start(*name.split(), "--help") for name in ["", *COMMANDS]}
    for name, one in running.items():
        ended = one.wait()
        assert (ended.code, ended.err) == (0, ""), name
        text = ended.out.decode()
        assert text.startswith("Usage: ")
        assert max(map(len, text.split("\n"))) <= 100
        if name in ("", "run", "resume", "retry"):
            flowing = " ".join(text.split())
            listed = flowing[flowing.index("Exit codes:") :]
            assert [code for code in CODES if not re.search(rf"\b{code}\b", listed)] == [], name
    version = cli("--version")
    assert version.code == 0
    assert re.fullmatch(rb"runner, version \d+\.\d+\S*\n", version.out)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does_and_its_default(name) -> None:
    context = click.Context(app)
    command = app.get_command(context, name)
    assert command is not None
    shown = " ".join(command.get_help(click.Context(command, info_name=name)).split())
    assert (command.help or "").split("\n")[0].endswith(".")
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.opts} has no help"
            if option.default not in (None, False) and isinstance(option.default, (str, int)):
                assert f"default: {option.default}" in shown, f"{name} {option.opts}"


def test_run_names_the_defaults_of_the_contract() -> None:
    command = app.get_command(click.Context(app), "run")
    assert command is not None
    shown = " ".join(command.get_help(click.Context(command, info_name="run")).split())
    for default in ("30s", "5m", "10m", "retry", "error", "25s", "32MiB"):
        assert f"default: {default}]" in shown


def test_what_others_write_cannot_steer_the_terminal(cli, server, job_file, tmp_path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e\u200fevil"
    job_file([{"id": evil, "text": "row=r1"}, {"id": evil, "text": "row=r2"}])
    doubled = cli.start("run", "job.yaml")
    server.script = lambda arrival: error(400, f"code{evil}", f"message{evil}")
    write_jsonl(tmp_path / "one.jsonl", [{"id": evil, "text": "row=r3"}])
    failed = cli.start("run", "job.yaml", "-i", "one.jsonl", "-o", "one.out.jsonl")
    named = cli.start("run", f"{evil}.jsonl")
    said = [doubled.wait(), failed.wait(), named.wait()]
    assert [ended.code for ended in said] == [65, 3, 2]
    run = said[1].err.split()[1]
    said.append(cli("status", run))
    for ended in said:
        shown = ended.err + ended.out.decode()
        assert "evil" in shown
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\u200f]", shown), shown


def test_odd_characters_in_keys_and_a_narrow_encoding_break_no_screen(
    cli, server, job_file, tmp_path
) -> None:
    rows = tmp_path / "rows.jsonl"
    job = job_file([])
    job.write_text(job.read_text().replace("small-job", "a-job-whose-name-is-longer-than-its-column"))
    cli.env |= {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    odd = '{"id": "cl\u00e9 \U0001f99c", "text": "row=r1"}\n'.encode()
    rows.write_bytes(odd + b'{"id": "\\ud800", "text": "row=r2"}\n' + odd)
    refused = cli("run", "job.yaml")
    assert refused.code == 65, refused
    for word in ("line 2", "line 3", "surrogate", "(key cl"):
        assert word in refused.err
    as_json = cli("run", "job.yaml", "--json")
    assert [one["line"] for one in as_json.events[-1]["faults"]] == [2, 3]
    rows.write_bytes(odd)
    ran = cli("run", "job.yaml")
    assert ran.code == 0, ran.err
    assert (tmp_path / "out.jsonl").read_bytes().startswith(odd[:12])
    assert b"a-job-whose-name" in cli("status").out


def test_no_key_and_no_prompt_in_what_is_told_of_failures(cli, server, requests_file, tmp_path) -> None:
    server.script = lambda arrival: error(400, "bad_thing", f"Key {KEY} is odd; Authorization: Bearer {KEY}")
    failed = cli("run", requests_file(2), "-o", "out.jsonl")
    assert failed.code == 3
    assert [line["error"]["code"] for line in read_jsonl(tmp_path / "out.jsonl")] == ["bad_thing"] * 2
    server.script = lambda arrival: error(401, "invalid_api_key", f"Incorrect API key provided: {KEY}.")
    refused = cli("run", requests_file(2, "others.jsonl"))
    assert refused.code == 77
    assert "Incorrect API key provided" in refused.err
    line = orjson.dumps({"custom_id": "a", "method": "POST", "body": {"messages": PROMPT}})
    (tmp_path / "bad.jsonl").write_bytes(line[:-1] + b"\n" + line + b"\n")
    bad = cli("run", "bad.jsonl", "-o", "bad.out.jsonl")
    assert bad.code == 65
    assert PROMPT not in bad.err
    assert PROMPT not in (tmp_path / "bad.out.jsonl.errors.jsonl").read_text()
    assert arrived_with_the_key(server)


def arrived_with_the_key(server) -> bool:
    """Whether the server was shown the key at all: where it was not, its absence elsewhere shows nothing."""
    return all(arrival.headers["authorization"] == f"Bearer {KEY}" for arrival in server.ledger.arrivals)


def test_the_key_in_the_environment_is_nowhere_in_store_and_outputs(cli, server, job_file, store) -> None:
    assert cli("run", job_file(3)).code == 0
    assert arrived_with_the_key(server)
    for path in store.parent.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0, f"{path} can be read by others"


def test_a_terminal_gets_a_bar_and_the_same_end(cli, server, job_file) -> None:
    ours, theirs = pty.openpty()
    server.script = "context:row=r2"
    running = cli.start("run", job_file(3), env={"TERM": "xterm-256color"}, stderr=theirs)
    os.close(theirs)
    shown = b""
    # The end of a terminal whose last writer is gone is an error on Linux, and an empty read elsewhere.
    try:
        while chunk := os.read(ours, 65_536):
            shown += chunk
    except OSError:
        pass
    os.close(ours)
    assert running.wait().code == 3
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "Traceback" not in text
    assert "2 of 3 rows answered, 1 failed" in text
    assert "context_length_exceeded" in text
    assert text.rstrip().endswith(str(Path("out.jsonl")))


def test_a_run_under_cron_says_what_is_out_and_is_found_again_from_another_folder(
    cli, requests_file, tmp_path
) -> None:
    requests = requests_file(4)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = ["run", requests, "--mode", "batch", "-o", tmp_path / "out.jsonl", "--poll", "5s", "--no-wait"]
    with FaultServer(batches="plain", batch_time=0.5) as server:
        cli.env["OPENAI_BASE_URL"] = server.url
        first = cli(*words)
        assert first.code == 75
        run = first.err.split()[1]
        [batch] = re.findall(r"^Batch (batch_\w+) \(4 rows\): submitted\.$", first.err, re.MULTILINE)
        assert "Not finished: 1 batch is out (4 rows, the oldest for " in first.err
        shown = cli("status", run).out.decode()
        assert f"Run       {run} of requests: waiting\n" in shown
        assert f"Batches   1 out (4 rows)\n          {batch}  submitted, " in shown
        assert f"`runner cancel {run}` calls them off" in shown
        told = cli("status", run, "--json").json["batches"]
        assert [(one["batch"], one["lines"], one["sent"]) for one in told] == [(batch, 4, True)]
        server.ledger.wait_until(
            lambda ledger: all(one["status"] for one in ledger.batches().values()), timeout=10
        )
        again = cli(*words, cwd=elsewhere)
    assert again.code == 0, again.err
    assert f"Batch {batch} (4 rows): completed." in again.err
    assert len(server.ledger.batches()) == 1
    assert "Batches   1 collected" in cli("status", run).out.decode()


def test_a_full_queue_is_a_wait_with_a_time_and_no_failure(cli, requests_file) -> None:
    with FaultServer(batches="queue-full:1", batch_time=0.1) as server:
        cli.env["OPENAI_BASE_URL"] = server.url
        words = ["--mode", "batch", "-o", "out.jsonl", "--poll", "0.1s", "--queue-wait", "1h", "--no-wait"]
        ended = cli("run", requests_file(4), *words)
        quiet = cli("run", requests_file(4), *words, "--quiet")
    assert (quiet.code, quiet.err) == (75, "")
    assert ended.code == 75
    assert "the account's queue is full: again in 1h00m." in ended.err
    assert "failed" not in ended.err
    assert "4 rows wait for room in the account's queue" in ended.err
    shown = cli("status", "last").out.decode()
    assert "waits for room in the account's queue, next try at 20" in shown
    assert ": waiting\n" in shown
