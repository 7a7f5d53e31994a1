"""Batches at Azure, as the simulator speaks its Batch API: deployments, empty ids, 400s at once, no embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from e2e.batch_runs import screens
from e2e.conftest import Ended, read_jsonl, request_line, write_jsonl

from runner.simulator import Settings, Simulator

ROWS = 30
DEPLOYMENT = "our-batches-in-sweden"
PRICE = {"input": "1", "output": "1"}
POLL = ("--poll", "0.1s", "--queue-wait", "0.2s")
JobFile = Callable[..., Path]


def command(*args: object) -> Ended:
    """The command in the test's own process."""
    with screens() as run:
        return run(*args)


@pytest.fixture
def azure() -> Iterator[Callable[..., Simulator]]:
    """`azure(**settings)` starts a simulator with Azure's ways."""
    started: list[Simulator] = []

    def start(**settings: Any) -> Simulator:
        made = Simulator(Settings(profile="azure", **{"batch_time": 0.1, **settings}))
        made.start()
        started.append(made)
        return made

    yield start
    for one in started:
        one.stop()


def at(simulator: Simulator, folder: Path, surface: str = "/openai/v1") -> tuple[str, ...]:
    """The options that ask this simulator as one asks Azure, with a store of the test's own."""
    url = simulator.url.removesuffix("/v1") + surface
    return ("--provider", "azure", "--base-url", url, "--store", f"sqlite:///{folder / 'store.db'}")


def embeddings_file(folder: Path) -> Path:
    def line(number: int) -> dict[str, Any]:
        body = {"model": DEPLOYMENT, "input": f"row=r{number} a text"}
        return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/embeddings", "body": body}

    return write_jsonl(folder / "requests.jsonl", map(line, range(1, ROWS + 1)))


@pytest.mark.parametrize("version", [None, "2024-10-21"], ids=["v1", "dated"])
@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_a_job_runs_through_on_both_surfaces(
    endpoint: str,
    version: str | None,
    azure: Callable[..., Simulator],
    job_file: JobFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if version is not None:
        monkeypatch.setenv("OPENAI_API_VERSION", version)
    ask = {"input": "{{ text }}"} if endpoint == "responses" else {}
    chat = {"messages": [{"role": "user", "content": "{{ text }}"}]}
    job = job_file(ROWS, endpoint=endpoint, model=DEPLOYMENT, mode="batch", request=ask or chat)
    simulator = azure()

    ended = command("run", job, *POLL, *at(simulator, tmp_path, "" if version else "/openai/v1"))

    assert ended.code == 0, ended.err
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [one["id"] for one in rows] == [f"r{n}" for n in range(1, ROWS + 1)]
    assert all(one["result"]["output"] and one["result"]["attempts"] == 1 for one in rows)
    [batch] = simulator.ledger()["batches"]
    assert batch["endpoint"] == {"chat": "/v1/chat/completions", "responses": "/v1/responses"}[endpoint]
    assert not list(tmp_path.glob("out.jsonl.errors.jsonl"))


def test_rows_that_were_refused_for_a_moment_go_into_a_second_batch(
    azure: Callable[..., Simulator], job_file: JobFile, tmp_path: Path
) -> None:
    """Nothing was answered in the first batch: its output id is an empty text, and never turns into a file."""
    job, simulator = job_file(ROWS, model=DEPLOYMENT, mode="batch"), azure(faults="500=1@first")

    ended = command("run", job, *POLL, *at(simulator, tmp_path))

    assert ended.code == 0, ended.err
    assert len(simulator.ledger()["batches"]) == 2
    assert {one["result"]["attempts"] for one in read_jsonl(tmp_path / "out.jsonl")} == {2}


def test_a_queue_that_is_full_is_waited_for_in_smaller_batches(
    azure: Callable[..., Simulator], job_file: JobFile, tmp_path: Path
) -> None:
    """A 400 at once names the limit: what fits goes first, one batch after another."""
    job, simulator = job_file(ROWS, model=DEPLOYMENT, mode="batch"), azure(enqueued_tokens=60)

    ended = command("run", job, *POLL, *at(simulator, tmp_path))

    assert ended.code == 0, ended.err
    assert "smaller batches follow" in ended.err
    ledger = simulator.ledger()
    assert 2 <= len(ledger["batches"]) <= ROWS
    assert all(one["result"]["attempts"] == 1 for one in read_jsonl(tmp_path / "out.jsonl"))


def test_a_batch_that_would_have_expired_elsewhere_ends(
    azure: Callable[..., Simulator], job_file: JobFile, tmp_path: Path
) -> None:
    job, simulator = job_file(ROWS, model=DEPLOYMENT, mode="batch"), azure(faults="batch-expired=1")

    assert command("run", job, *POLL, *at(simulator, tmp_path)).code == 0
    assert [one["status"] for one in simulator.ledger()["batches"]] == ["completed"]


def test_embeddings_are_refused_before_the_upload_and_asked_online_when_told_to(
    azure: Callable[..., Simulator], tmp_path: Path
) -> None:
    requests, simulator = embeddings_file(tmp_path), azure()
    out = tmp_path / "out.jsonl"

    refused = command("run", requests, "-o", out, "--mode", "batch", *POLL, *at(simulator, tmp_path))

    assert refused.code == 3
    assert "batch_unsupported" in refused.err
    errors = read_jsonl(tmp_path / "out.jsonl.errors.jsonl")
    assert len(errors) == ROWS
    assert "batches of this provider do not take embeddings" in errors[0]["error"]["message"]
    assert "--mode online" in errors[0]["error"]["message"]
    ledger = simulator.ledger()
    assert (ledger["batches"], ledger["executed"]) == ([], 0)

    asked = command("retry", "last", "--mode", "online", "-o", out, *at(simulator, tmp_path))
    assert asked.code == 0, asked.err
    assert all(one["error"] is None for one in read_jsonl(out))


@pytest.mark.parametrize("more", [(), ("--no-wait",)], ids=["waiting", "cron"])
def test_before_a_deadline_what_no_batch_takes_is_asked_online(
    more: tuple[str, ...], azure: Callable[..., Simulator], tmp_path: Path
) -> None:
    requests, simulator = embeddings_file(tmp_path), azure()
    chat = (request_line(n, body={"model": DEPLOYMENT}) for n in range(ROWS + 1, 2 * ROWS + 1))
    with requests.open("ab") as file:
        file.write(write_jsonl(tmp_path / "chat.jsonl", chat).read_bytes())
    out = tmp_path / "out.jsonl"

    ended = command(
        "run",
        requests,
        "-o",
        out,
        "--mode",
        "auto",
        "--deadline",
        "1h",
        *POLL,
        *at(simulator, tmp_path),
        *more,
    )

    assert ended.code == 0, ended.err
    assert [one["custom_id"] for one in read_jsonl(out)] == [f"r{n}" for n in range(1, 2 * ROWS + 1)]
    assert all(one["error"] is None for one in read_jsonl(out))
    [batch] = simulator.ledger()["batches"]
    assert batch["endpoint"] == "/v1/chat/completions"


def test_a_row_that_is_larger_than_the_whole_queue_fails_and_holds_nobody_up(
    azure: Callable[..., Simulator], job_file: JobFile, tmp_path: Path
) -> None:
    rows = [{"id": f"r{n}", "text": "tell me" + " more" * (300 if n == 3 else 1)} for n in range(1, 9)]
    job, simulator = job_file(rows, model=DEPLOYMENT, mode="batch"), azure(enqueued_tokens=100)

    ended = command("run", job, *POLL, *at(simulator, tmp_path))

    assert ended.code == 3, ended.err
    [failed] = read_jsonl(tmp_path / "out.jsonl.errors.jsonl")
    assert (failed["id"], failed["error"]["code"]) == ("r3", "request_too_large")
    assert "which takes 100 tokens" in failed["error"]["message"]
    assert sum(one["result"] is not None for one in read_jsonl(tmp_path / "out.jsonl")) == 7


def test_a_row_that_is_too_large_gives_back_what_was_set_aside_for_it(
    azure: Callable[..., Simulator], job_file: JobFile, tmp_path: Path
) -> None:
    rows = [{"id": f"r{n}", "text": "tell me" + " more" * (300 if n == 3 else 1)} for n in range(1, 5)]
    request = {"messages": [{"role": "user", "content": "{{ text }}"}], "max_completion_tokens": 10}
    job, simulator = job_file(rows, model="sim-a", mode="batch", request=request), azure(enqueued_tokens=100)
    prices = {"as_of": "2026-11-01", "models": {"sim-a": {**PRICE, "batch": PRICE}}}
    (tmp_path / "prices.json").write_bytes(orjson.dumps(prices))
    bounded = ("--prices", tmp_path / "prices.json", "--budget", "0.01")

    ended = command("run", job, *POLL, *at(simulator, tmp_path), *bounded)

    assert ended.code == 3, ended.err
    assert [one["result"] is not None for one in read_jsonl(tmp_path / "out.jsonl")] == [
        True,
        True,
        False,
        True,
    ]
