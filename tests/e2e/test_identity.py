"""What is the same run, the same series, the same question: nothing that is answered is ever paid again.

The judge is the server's ledger. Tests that drive many runs call the engine in this process; the others run
the command.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from e2e.conftest import Cli, read_jsonl, request_line, write_jsonl
from faultserver import FaultServer
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import engine
from runner.api.account import account_from
from runner.cli.account import identity_of
from runner.job import read_job, requests_job
from runner.pricing import Prices
from runner.stop import Stop

RequestsFile = Callable[..., Path]
JobFile = Callable[..., Path]


def rows_of(*texts: str) -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "text": f"row={text}"} for n, text in enumerate(texts, 1)]


def summary_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(output.with_name(f"{output.name}.summary.json").read_bytes())
    rows = found["rows"]
    assert rows["in"] == rows["ok"] + rows["failed"] + rows["invalid"] + rows["skipped"]
    return found


def files_of(output: Path) -> dict[str, tuple[str, int, int]]:
    """All that could change about the files of an output: bytes, time and inode."""
    found = sorted(output.parent.glob(f"{output.name}*"))
    return {
        path.name: (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
            path.stat().st_ino,
        )
        for path in found
    }


def runs_in(store: Path) -> list[str]:
    """The names of the runs in a store, oldest first."""
    with closing(sqlite3.connect(store)) as database:
        return [name for (name,) in database.execute("SELECT name FROM run ORDER BY id")]


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.json"
    table = {"as_of": "2026-11-01", "models": {"gpt-6-luna": {"input": "1", "output": "2"}}}
    path.write_bytes(orjson.dumps(table))
    return path


# --- the same command again ---------------------------------------------------------------------------


def test_the_same_command_again_calls_nobody_and_changes_no_byte(
    cli: Cli, server: FaultServer, job_file: JobFile, requests_file: RequestsFile, tmp_path: Path
) -> None:
    of_job, of_requests = ("run", job_file(20)), ("run", requests_file(20))
    assert cli(*of_job).code == cli(*of_requests).code == 0
    before = files_of(tmp_path / "out.jsonl") | files_of(tmp_path / "requests.results.jsonl")
    assert len(before) == 4
    calls = server.ledger.calls()
    for command in (of_job, of_requests, (*of_job, "--mode", "online")):
        ended = cli(*command)
        assert ended.code == 0
        assert ended.out == b""
    assert server.ledger.calls() == calls == 40
    assert files_of(tmp_path / "out.jsonl") | files_of(tmp_path / "requests.results.jsonl") == before


def test_a_lost_output_is_drawn_again_without_a_call(
    cli: Cli, server: FaultServer, job_file: JobFile, tmp_path: Path
) -> None:
    job, output = job_file(5), tmp_path / "out.jsonl"
    assert cli("run", job).code == 0
    drawn = output.read_bytes()
    output.unlink()
    assert cli("run", job).code == 0
    assert output.read_bytes() == drawn
    output.with_name("out.jsonl.summary.json").unlink()
    assert cli("run", job).code == 0
    assert summary_of(output)["rows"]["ok"] == 5
    assert server.ledger.calls() == 5


def test_a_touched_input_is_the_same_run(
    cli: Cli, server: FaultServer, job_file: JobFile, store: Path, tmp_path: Path
) -> None:
    job = job_file(5)
    assert cli("run", job).code == 0
    before = files_of(tmp_path / "out.jsonl")
    os.utime(tmp_path / "rows.jsonl", (1, 1))
    assert cli("run", job).code == 0
    # A copy in its place: another inode, the same bytes.
    copy = tmp_path / "copy"
    copy.write_bytes((tmp_path / "rows.jsonl").read_bytes())
    copy.replace(tmp_path / "rows.jsonl")
    assert cli("run", job).code == 0
    assert server.ledger.calls() == 5
    assert len(runs_in(store)) == 1
    assert files_of(tmp_path / "out.jsonl") == before


def test_an_answer_never_serves_at_another_server(cli: Cli, job_file: JobFile, tmp_path: Path) -> None:
    job = job_file(6)
    assert cli("run", job, "--provider", "sim").code == 0
    simulated = (tmp_path / "out.jsonl").read_bytes()
    with FaultServer() as one, FaultServer() as other:
        ended = cli("run", job, "--base-url", one.url)
        assert ended.code == 73, "the simulator's output is another series': it is not replaced in silence"
        assert one.ledger.calls() == 0
        assert (tmp_path / "out.jsonl").read_bytes() == simulated
        assert cli("run", job, "--base-url", one.url, "-o", "one.jsonl").code == 0
        assert cli("run", job, "--base-url", other.url, "--overwrite").code == 0
        for server in (one, other):
            assert server.ledger.calls() == 6
            assert set(server.ledger.executed.values()) == {1}
        assert cli("run", job, "--base-url", one.url, "-o", "one.jsonl").code == 0
        assert (
            cli("run", job, "--base-url", one.url, "-o", "one.jsonl", env={"OPENAI_ORG_ID": "org"}).code == 73
        )
        assert (one.ledger.calls(), other.ledger.calls()) == (6, 6)
    for name in ("one.jsonl", "out.jsonl"):
        for line in read_jsonl(tmp_path / name):
            assert line["result"]["output"].startswith("answer to "), "the fault server's own words"
            assert "reused" not in line["result"]


# --- which change starts a new run --------------------------------------------------------------------


def changed(job: Path, **fields: Any) -> Path:
    job.write_bytes(orjson.dumps({**orjson.loads(job.read_bytes()), **fields}))
    return job


def test_fields_of_handling_may_change_within_a_run(
    cli: Cli, server: FaultServer, job_file: JobFile, store: Path, prices: Path, tmp_path: Path
) -> None:
    job = job_file(5)
    assert cli("run", job, "--prices", prices).code == 0
    changed(job, limits={"concurrency": 2}, retry={"attempts": 9, "max_wait": "1m"}, budget=7, mode="online")
    changed(job, batch={"poll": "1m", "queue_wait": "1m"}, deadline="8h")
    assert cli("run", job, "--prices", prices).code == 0
    assert cli("run", job, "--prices", prices, "-o", "elsewhere.jsonl").code == 0
    changed(job, keep=["id"], output_field="said")
    assert cli("run", job, "--prices", prices).code == 0
    assert set(read_jsonl(tmp_path / "out.jsonl")[0]) == {"id", "said"}
    assert len(read_jsonl(tmp_path / "elsewhere.jsonl")) == 5
    assert server.ledger.calls() == 5
    assert len(runs_in(store)) == 1


def test_fields_of_meaning_start_a_new_run(
    cli: Cli, server: FaultServer, job_file: JobFile, store: Path, tmp_path: Path
) -> None:
    job = job_file(5)
    assert cli("run", job).code == 0
    assert cli("run", changed(job, model="gpt-6-sol")).code == 0
    assert server.ledger.calls() == 10
    request = {"messages": [{"role": "user", "content": "please, {{ text }}"}]}
    assert cli("run", changed(job, request=request)).code == 0
    assert server.ledger.calls() == 15
    assert len(runs_in(store)) == 3
    assert cli("run", changed(job, key="text")).code == 0
    assert len(runs_in(store)) == 4
    assert server.ledger.calls() == 15, "the questions are the same ones"
    assert all(line["result"]["reused"] for line in read_jsonl(tmp_path / "out.jsonl"))


def test_a_field_changed_back_finds_its_answers(
    cli: Cli, server: FaultServer, job_file: JobFile, tmp_path: Path
) -> None:
    job = job_file(4)
    assert cli("run", job).code == 0
    first = (tmp_path / "out.jsonl").read_bytes()
    assert cli("run", changed(job, model="gpt-6-sol")).code == 0
    assert cli("run", changed(job, model="gpt-6-luna")).code == 0
    assert server.ledger.calls() == 8
    assert (tmp_path / "out.jsonl").read_bytes() == first
    assert list(summary_of(tmp_path / "out.jsonl")["models"]) == ["gpt-6-luna"]


def test_an_output_exported_over_another_runs_is_drawn_again(
    cli: Cli, server: FaultServer, job_file: JobFile, store: Path, tmp_path: Path
) -> None:
    job = job_file(3)
    assert cli("run", job, "--limit", 1).code == 0
    assert cli("run", job).code == 0
    assert cli("export", runs_in(store)[0]).code == 0
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 1
    assert cli("run", job).code == 0
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 3
    assert server.ledger.calls() == 3


def test_on_length_is_drawn_anew_without_a_call(
    cli: Cli, server: FaultServer, job_file: JobFile, tmp_path: Path
) -> None:
    request = {"messages": [{"role": "user", "content": "{{ text }}"}], "max_completion_tokens": 2}
    job = job_file(4, request=request)
    assert cli("run", job).code == 3
    failed = read_jsonl(tmp_path / "out.jsonl")
    assert [line["result"] for line in failed] == [None] * 4
    assert {line["error"]["code"] for line in failed} == {"length"}
    assert cli("run", changed(job, on_length="accept")).code == 0
    assert [line["result"]["finish_reason"] for line in read_jsonl(tmp_path / "out.jsonl")] == ["length"] * 4
    assert summary_of(tmp_path / "out.jsonl")["finish_reasons"] == {"length": 4}
    assert cli("run", changed(job, on_length="fail")).code == 3
    assert server.ledger.calls() == 4


def test_two_jobs_over_one_input_share_no_answers(
    cli: Cli, server: FaultServer, job_file: JobFile, tmp_path: Path
) -> None:
    one = job_file(4)
    other = job_file(4, name="other.yaml", output="other.jsonl")
    assert cli("run", one).code == cli("run", other).code == 0
    assert set(server.ledger.executed.values()) == {2}
    assert not any("reused" in line["result"] for line in read_jsonl(tmp_path / "other.jsonl"))


# --- an input that changes ----------------------------------------------------------------------------


def test_a_nightly_input_that_grew_pays_for_the_new_rows_alone(
    cli: Cli, server: FaultServer, job_file: JobFile, prices: Path, tmp_path: Path
) -> None:
    job = job_file(rows_of("a", "b", "c"))
    assert cli("run", job, "--prices", prices).code == 0
    first = summary_of(tmp_path / "out.jsonl")
    write_jsonl(tmp_path / "rows.jsonl", rows_of("a", "b", "c", "d", "e"))
    assert cli("run", job, "--prices", prices).code == 0
    assert set(server.ledger.executed.values()) == {1}
    assert server.ledger.calls() == 5
    lines = read_jsonl(tmp_path / "out.jsonl")
    assert [line["result"].get("reused") for line in lines] == [True, True, True, None, None]
    second = summary_of(tmp_path / "out.jsonl")
    assert second["run"] != first["run"]
    assert second["rows"]["ok"] == 5
    assert second["requests"] == 2
    costs = [Decimal(line["result"]["cost_usd"]) for line in lines]
    assert min(costs) > 0
    assert Decimal(first["cost_usd"]["total"]) == Decimal(second["cost_usd"]["reused"]) == sum(costs[:3])
    assert Decimal(second["cost_usd"]["total"]) == sum(costs[3:])
    assert first["cost_usd"]["reused"] == "0"


def test_a_limit_and_then_everything_pays_each_row_once(
    cli: Cli, server: FaultServer, requests_file: RequestsFile, job_file: JobFile, tmp_path: Path
) -> None:
    job = job_file(12)
    for limit, calls in ((3, 3), (3, 3), (7, 7), (100, 12)):
        assert cli("run", job, "--limit", limit).code == 0
        assert server.ledger.calls() == calls
        assert summary_of(tmp_path / "out.jsonl")["rows"]["in"] == min(limit, 12)
    assert cli("run", job).code == 0
    assert server.ledger.calls() == 12
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 12


def test_equal_rows_are_asked_each_for_itself_unless_dedupe_is_on(
    cli: Cli, server: FaultServer, job_file: JobFile, tmp_path: Path
) -> None:
    texts = ("same", "other", "same", "same")
    assert cli("run", job_file(rows_of(*texts))).code == 0
    assert sorted(server.ledger.executed.values()) == [1, 3]
    assert cli("run", job_file(rows_of(*texts), name="lean.yaml", output="lean.jsonl", dedupe=True)).code == 0
    assert sorted(server.ledger.executed.values()) == [2, 4]
    lines = read_jsonl(tmp_path / "lean.jsonl")
    assert [line["id"] for line in lines] == ["r1", "r2", "r3", "r4"]
    assert lines[0]["result"]["output"] == lines[2]["result"]["output"] == lines[3]["result"]["output"]
    assert summary_of(tmp_path / "lean.jsonl")["requests"] == 2


def test_what_no_question_holds_may_change_for_nothing(
    cli: Cli, server: FaultServer, job_file: JobFile, tmp_path: Path
) -> None:
    job = job_file(rows_of("a", "b"))
    assert cli("run", job).code == 0
    write_jsonl(tmp_path / "rows.jsonl", ({**row, "note": "new"} for row in rows_of("a", "b")))
    assert cli("run", job).code == 0
    assert server.ledger.calls() == 2
    assert [line["note"] for line in read_jsonl(tmp_path / "out.jsonl")] == ["new", "new"]
    renamed = [request_line(n, custom_id=f"night-{n}") for n in (1, 2)]
    source = write_jsonl(tmp_path / "requests.jsonl", [request_line(1), request_line(2)])
    assert cli("run", source).code == 0
    write_jsonl(source, renamed)
    assert cli("run", source).code == 0
    assert server.ledger.calls() == 4
    found = read_jsonl(tmp_path / "requests.results.jsonl")
    assert [line["custom_id"] for line in found] == ["night-1", "night-2"]


def test_fresh_forgets_the_answers_of_its_series_alone(
    cli: Cli, server: FaultServer, job_file: JobFile, tmp_path: Path
) -> None:
    one, other = job_file(3), job_file(3, name="other.yaml", output="other.jsonl")
    assert cli("run", one).code == cli("run", other).code == 0
    assert cli("run", one, "--fresh").code == 0
    assert server.ledger.calls() == 9
    assert cli("run", one).code == cli("run", other).code == 0
    assert server.ledger.calls() == 9


# --- any sequence of edits ----------------------------------------------------------------------------


class Edit(NamedTuple):
    """One change of a file: what is done, where (as a share of its length), with which text, and how many rows
    of the result are run (None: all)."""

    how: str
    where: float
    text: str
    limit: int | None


EDITS = st.builds(
    Edit,
    st.sampled_from(["append", "insert", "edit", "remove", "swap", "double", "reverse", "touch", "blank"]),
    st.floats(0, 0.999),
    st.sampled_from("abcde"),
    st.one_of(st.none(), st.none(), st.integers(1, 5)),
)


def edited(texts: list[str], edit: Edit) -> list[str]:
    new, at = list(texts), int(edit.where * len(texts))
    match edit.how:
        case "append":
            new.append(edit.text)
        case "insert":
            new.insert(at, edit.text)
        case "edit":
            new[at] = edit.text
        case "remove":
            del new[at]
        case "swap":
            new[at], new[-1] = new[-1], new[at]
        case "double":
            new.insert(at, new[at])
        case "reverse":
            new.reverse()
    return new or [edit.text]


class Driven:
    """Runs the engine in this process over files of its own, each example in another folder and series."""

    def __init__(self, folder: Path, server: FaultServer) -> None:
        self.folder = folder
        self.server = server
        self.examples = 0
        account, _ = account_from(
            {}, provider=None, base_url=server.url, insecure_http=False, demand_key=False
        )
        self._account = account

    def example(self) -> Path:
        """A new folder."""
        self.examples += 1
        place = self.folder / str(self.examples)
        place.mkdir()
        return place

    def run(self, source: Path, output: Path, *, limit: int | None) -> engine.Finished:
        job = read_job(source) if source.suffix == ".yaml" else requests_job(str(source))
        assert job.input is not None
        start = engine.Start(
            job=job,
            account=self._account,
            identity=identity_of(job, self._account),
            store_url=f"sqlite:///{self.folder / 'store.db'}",
            output=output,
            prices=Prices.none(),
            input=Path(job.input),
            limit=limit,
        )
        return engine.run(start, stop=Stop(), emit=lambda _: None)

    def executed(self, folder: Path) -> Counter[str]:
        """How often each text of an example was executed."""
        found: Counter[str] = Counter()
        counted = self.server.ledger.executed
        for sha, marker in {(one.sha, one.marker or "") for one in self.server.ledger.arrivals}:
            if marker.startswith(f"{folder.name}-"):
                found[marker.rpartition("-")[2]] = counted[sha]
        return found


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driven]:
    with FaultServer() as started:
        yield Driven(tmp_path_factory.mktemp("driven"), started)


def write_example(folder: Path, texts: list[str], edit: Edit | None, *, of_job: bool, dedupe: bool) -> Path:
    """The input of an example, and its job; what is to be run."""
    marked = [f"row={folder.name}-{text}" for text in texts]
    if of_job:
        source = folder / "job.yaml"
        rows: list[dict[str, Any]] = [{"text": text, "line": n} for n, text in enumerate(marked)]
        request = {"messages": [{"role": "user", "content": "{{ text }}"}]}
        job = {"name": "edits", "endpoint": "chat", "model": "m", "input": "rows.jsonl", "dedupe": dedupe}
        source.write_bytes(orjson.dumps({**job, "request": request}))
        path = folder / "rows.jsonl"
    else:
        source = path = folder / "requests.jsonl"
        rows = [
            request_line(n, body={"messages": [{"role": "user", "content": text}]})
            for n, text in enumerate(marked)
        ]
    data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    if edit is not None and edit.how == "blank":
        data = b"\n" + data + b"\n \n"
    path.write_bytes(data)
    if edit is not None and edit.how == "touch":
        os.utime(path, (1, 1))
    return source


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.sampled_from("abcde"), min_size=1, max_size=7),
    edits=st.lists(EDITS, min_size=1, max_size=5),
    of_job=st.booleans(),
    dedupe=st.booleans(),
)
def test_no_edit_of_the_input_pays_for_an_unchanged_row_again(
    driven: Driven, texts: list[str], edits: list[Edit], of_job: bool, dedupe: bool
) -> None:
    folder = driven.example()
    output = folder / "out.jsonl"
    owed: Counter[str] = Counter()
    dedupe = dedupe and of_job
    for edit in [None, *edits]:
        limit = None if edit is None else edit.limit
        texts = texts if edit is None else edited(texts, edit)
        source = write_example(folder, texts, edit, of_job=of_job, dedupe=dedupe)
        before = driven.server.ledger.calls()
        finished = driven.run(source, output, limit=limit)
        assert finished.exit_code == 0

        asked = texts[:limit]
        owed |= Counter(set(asked)) if dedupe else Counter(asked)
        assert driven.executed(folder) == owed, "each question as often as one input held it, never more"
        lines = read_jsonl(output)
        assert len(lines) == len(asked)
        for line, text in zip(lines, asked, strict=True):
            said = (
                line["result"]["output"]
                if of_job
                else line["response"]["body"]["choices"][0]["message"]["content"]
            )
            assert said.endswith(f" row={folder.name}-{text}")
        rows = summary_of(output)["rows"]
        assert rows == {"in": len(asked), "ok": len(asked), "failed": 0, "invalid": 0, "skipped": 0}
        if of_job and not dedupe:
            paid_now = sum("reused" not in line["result"] for line in lines)
            assert paid_now >= driven.server.ledger.calls() - before
