"""Every option and kind of job in batch mode: budgets, limits, schemas, tools, vectors, two at once."""

from __future__ import annotations

import base64
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from e2e.batch_runs import screens
from e2e.conftest import Ended, read_jsonl, request_line, write_jsonl
from faultserver import BatchFaults, FaultServer
from faultserver.embeddings import vector
from faultserver.work import Results

ROWS = 20
DIMENSIONS = 8
POLL = ("--poll", "0.1s", "--queue-wait", "0.2s")
JobFile = Callable[..., Path]

PRICES = {
    "as_of": "2026-11-01",
    "models": {"gpt-6-luna": {"input": "0", "output": "2", "batch": {"input": "0", "output": "1"}}},
}
WORST = Decimal("0.000050")
"""The worst case of a row of these tests in a batch: 50 tokens at a dollar a million."""


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(batch_time=0.05) as started:
        yield started


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Ended]:
    """`command(server, "run", job, ...)` runs it in batch mode, over a store of the test's own."""

    def run(server: FaultServer, name: str, what: object, *more: object) -> Ended:
        store = ("--store", f"sqlite:///{tmp_path / 'store.db'}")
        words: tuple[object, ...] = ()
        if name in ("run", "resume", "retry"):
            words = (*POLL, "--base-url", server.url, *(() if "--mode" in more else ("--mode", "batch")))
        with screens() as do:
            return do(name, what, *words, *store, *more)

    return run


def out_of(folder: Path) -> list[Any]:
    return read_jsonl(folder / "out.jsonl")


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads((folder / "out.jsonl.summary.json").read_bytes())
    rows = found["rows"]
    assert rows["in"] == rows["ok"] + rows["failed"] + rows["invalid"] + rows["skipped"]
    return found


def prices(folder: Path) -> tuple[str, Path]:
    path = folder / "prices.json"
    path.write_bytes(orjson.dumps(PRICES))
    return "--prices", path


def sizes(server: FaultServer) -> list[int]:
    return [one["done"] for one in server.ledger.batches().values()]


# --- money


def test_a_budget_smaller_than_all_rows_is_kept_by_smaller_batches(
    command, server, job_file: JobFile, tmp_path: Path
) -> None:
    ended = command(server, "run", job_file(ROWS), *prices(tmp_path), "--budget", str(6 * WORST))

    assert ended.code == 0, ended.err
    assert sizes(server)[0] == 6, "as many as their worst case allows"
    assert len(sizes(server)) > 2
    assert max(sizes(server)) == 6
    assert sum(sizes(server)) == ROWS
    assert Decimal(summary_of(tmp_path)["cost_usd"]["total"]) <= 6 * WORST


def test_a_budget_smaller_than_one_row_pauses_before_anything_is_sent(
    command, server, job_file: JobFile, tmp_path: Path
) -> None:
    job = job_file(ROWS)
    paused = command(server, "run", job, *prices(tmp_path), "--budget", str(WORST / 2))

    assert paused.code == 4
    assert "The budget of $0.000025 does not allow the next batch" in paused.err
    assert "Raise --budget" in paused.err
    assert server.ledger.noted("uploaded") == []
    assert command(server, "run", job, *prices(tmp_path), "--budget", "1").code == 0


def test_a_budget_that_is_spent_pauses_and_is_never_passed(
    command, server, job_file: JobFile, tmp_path: Path
) -> None:
    job, budget = job_file(ROWS), 2 * WORST
    paused = command(server, "run", job, *prices(tmp_path), "--budget", str(budget))

    assert paused.code == 4, paused.err
    spent = server.ledger.usage["output"] * Decimal("0.000001")
    assert budget - WORST < spent <= budget
    again = command(server, "run", job, *prices(tmp_path), "--budget", str(budget))
    assert again.code == 4
    assert server.ledger.usage["output"] * Decimal("0.000001") == spent
    assert command(server, "run", job, *prices(tmp_path)).code == 0
    assert server.ledger.executed_rows == Counter({f"r{n}": 1 for n in range(1, ROWS + 1)})


# --- which rows


def test_a_few_rows_first_and_then_all_of_them(command, server, job_file: JobFile, tmp_path: Path) -> None:
    job = job_file(ROWS)
    assert command(server, "run", job, "--limit", "5").code == 0
    assert len(out_of(tmp_path)) == 5
    assert command(server, "run", job).code == 0

    assert sizes(server) == [5, 15]
    assert [one["result"].get("reused", False) for one in out_of(tmp_path)] == [True] * 5 + [False] * 15


def test_equal_rows_are_one_line_of_a_batch(command, server, job_file: JobFile, tmp_path: Path) -> None:
    rows = [{"id": f"r{n}", "text": f"row=r{n % 4} tell me"} for n in range(ROWS)]
    assert command(server, "run", job_file(rows, dedupe=True)).code == 0

    assert sizes(server) == [4]
    assert len({one["result"]["output"] for one in out_of(tmp_path)}) == 4
    assert len(out_of(tmp_path)) == ROWS


def test_equal_rows_that_are_not_one_are_lines_of_their_own(
    command, server, job_file: JobFile, tmp_path: Path
) -> None:
    rows = [{"id": f"r{n}", "text": f"row=r{n % 4} tell me"} for n in range(ROWS)]
    assert command(server, "run", job_file(rows)).code == 0

    assert server.ledger.executed_rows == Counter({f"r{n}": 5 for n in range(4)})


def test_bad_lines_are_left_out_where_the_user_says_so(command, server, tmp_path: Path) -> None:
    lines = [request_line(n) for n in range(1, 6)]
    requests = write_jsonl(tmp_path / "in.jsonl", [*lines[:2], {"custom_id": "bad"}, *lines[2:]])
    out = ("-o", tmp_path / "out.jsonl")

    assert command(server, "run", requests, *out).code == 65
    assert server.ledger.arrivals == []
    assert command(server, "run", requests, *out, "--skip-invalid").code == 3
    assert [one["error"] is None for one in out_of(tmp_path)] == [True, True, False, True, True, True]
    assert summary_of(tmp_path)["rows"]["invalid"] == 1


# --- what is asked, and how it ends


SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["label", "score"],
    "additionalProperties": False,
}


def test_structured_answers_are_checked(command, job_file: JobFile, tmp_path: Path) -> None:
    def spoil(results: Results) -> None:
        results.output[2] = results.output[2].replace(b'\\"score\\":', b'\\"points\\":')

    (tmp_path / "schema.json").write_bytes(orjson.dumps(SCHEMA))
    request = {"messages": [{"role": "user", "content": "{{ text }}"}]}
    job = job_file(ROWS, schema="schema.json", request=request)
    with FaultServer(batches=BatchFaults().with_edit(spoil), batch_time=0.05) as server:
        ended = command(server, "run", job)

    assert ended.code == 3, ended.err
    [failed] = read_jsonl(tmp_path / "out.jsonl.errors.jsonl")
    assert failed["id"] == "r3"
    good = [one["result"]["output"] for one in out_of(tmp_path) if one["result"]]
    assert len(good) == ROWS - 1
    assert all(set(one) == {"label", "score"} for one in good)


def test_a_forced_tool_gives_its_arguments(command, server, job_file: JobFile, tmp_path: Path) -> None:
    function = {"name": "label", "parameters": SCHEMA}
    request = {
        "messages": [{"role": "user", "content": "{{ text }}"}],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "label"}},
    }
    assert command(server, "run", job_file(ROWS, request=request)).code == 0

    assert all(set(one["result"]["output"]) == {"label", "score"} for one in out_of(tmp_path))


@pytest.mark.parametrize(("on_length", "code"), [(None, 3), ("accept", 0)])
def test_cut_answers_fail_or_are_accepted(
    on_length: str | None, code: int, command, server, job_file: JobFile, tmp_path: Path
) -> None:
    request = {"messages": [{"role": "user", "content": "{{ text }}"}], "max_completion_tokens": 3}
    assert command(server, "run", job_file(3, request=request, on_length=on_length)).code == code

    assert summary_of(tmp_path)["finish_reasons"] == {"length": 3}
    assert len(server.ledger.creates()) == 1, "what was cut is not asked again"


def test_failed_rows_go_round_again_when_asked_to(command, job_file: JobFile, tmp_path: Path) -> None:
    with FaultServer(batches="failed-validation", batch_time=0.05) as server:
        job = job_file(ROWS)
        assert command(server, "run", job).code == 3
        creates = len(server.ledger.creates())
        assert command(server, "run", job).code == 3
        assert len(server.ledger.creates()) == creates

        assert command(server, "retry", "last").code == 0
        assert sizes(server)[-1] == 1
        assert server.ledger.executed_rows == Counter({f"r{n}": 1 for n in range(1, ROWS + 1)})


# --- while batches are out


def test_what_there_is_can_be_had_while_batches_are_out(command, job_file: JobFile, tmp_path: Path) -> None:
    job, part = job_file(ROWS), tmp_path / "part.jsonl"
    with FaultServer(batch_time=0.05) as quick:
        assert command(quick, "run", job, "--limit", "5", "-o", tmp_path / "five.jsonl").code == 0
        quick_port = quick.port
    with FaultServer(port=quick_port, batches="stuck", batch_time=0.05) as server:
        assert command(server, "run", job, "--no-wait", "--poll", "5s").code == 75

        assert command(server, "export", "last", "-o", part).code == 2
        assert command(server, "export", "last", "--partial", "-o", part).code == 3
        found = orjson.loads((tmp_path / "part.jsonl.summary.json").read_bytes())["rows"]
        assert (found["ok"], found["skipped"]) == (5, ROWS - 5)
        refused = command(server, "forget", "last", "--yes")
        assert refused.code == 2
        assert "1 with 15 requests" in refused.err
        assert "`runner cancel" in refused.err
        assert command(server, "run", job, "--fresh").code == 2


def test_two_jobs_share_a_store(command, server, tmp_path: Path) -> None:
    ended: dict[str, Ended] = {}

    def one(name: str) -> None:
        lines = (request_line(n, body={"seed": ord(name)}) for n in range(1, 200))
        requests = write_jsonl(tmp_path / f"{name}.jsonl", lines)
        store = f"sqlite:///{tmp_path / 'store.db'}"
        out = ("-o", tmp_path / f"{name}.out.jsonl", "--store", store, "--base-url", server.url)
        ended[name] = do("run", requests, "--mode", "batch", *POLL, *out)

    with screens() as do:
        threads = [threading.Thread(target=one, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert [ended[name].code for name in "abc"] == [0, 0, 0], [one.err for one in ended.values()]
    assert len(server.ledger.creates()) == 3
    assert max(server.ledger.executed.values()) == 1
    assert all(len(read_jsonl(tmp_path / f"{name}.out.jsonl")) == 199 for name in "abc")


# --- vectors


TEXTS = [f"row=r{n} some words" for n in range(ROWS)]


def wanted() -> list[bytes]:
    return [vector(text, DIMENSIONS) for text in TEXTS]


def as_numbers(results: Results) -> None:
    """A server that gives numbers whatever it was asked for."""
    for place, line in enumerate(results.output):
        found = orjson.loads(line)
        item = found["response"]["body"]["data"][0]
        raw = base64.b64decode(item["embedding"])
        item["embedding"] = list(struct.unpack(f"<{len(raw) // 4}f", raw))
        results.output[place] = orjson.dumps(found)


def refusing(results: Results) -> None:
    """A server that does not know base64, and says so of each line."""
    for line in results.output:
        found = orjson.loads(line)
        if isinstance(found["response"]["body"]["data"][0]["embedding"], str):
            error = {"message": "encoding_format: base64 is not supported", "type": "invalid_request_error"}
            found["response"] |= {"status_code": 400, "body": {"error": error}}
            results.error.append(orjson.dumps(found))
    results.output[:] = [line for line in results.output if b'"embedding":[' in line]


@pytest.mark.parametrize("name", ["out.jsonl", "out.npy"])
@pytest.mark.parametrize(
    ("edit", "batches"), [(None, 1), (as_numbers, 1), (refusing, 2)], ids=["base64", "numbers", "refuses"]
)
def test_vectors_keep_every_bit(
    edit: Callable[[Results], None] | None, batches: int, name: str, command, embed, tmp_path: Path
) -> None:
    faults = BatchFaults() if edit is None else BatchFaults().with_edit(edit)
    with FaultServer(batches=faults, batch_time=0.05) as server:
        ended = command(server, "run", embed(TEXTS), "-o", tmp_path / name)

        assert ended.code == 0, ended.err
        assert len(server.ledger.creates()) == batches, "the other form is asked for once, and for all"
    if name.endswith(".npy"):
        matrix = np.load(tmp_path / name)
        assert (matrix.shape, matrix.dtype) == ((ROWS, DIMENSIONS), np.dtype("<f4"))
        found = [row.tobytes() for row in matrix]
    else:
        found = [struct.pack(f"<{DIMENSIONS}f", *one["result"]["output"]) for one in out_of(tmp_path)]
    assert found == wanted()
