"""What becomes of batches at the simulator, of their lines and of their files, and how the ledger tells it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from simulated_batches import TERMINAL, Clock, create, line, lines_of, simulated, until, upload
from virtual_time import run_virtually, virtual_now

from runner.simulator import Settings
from runner.simulator.batches import Batches
from runner.simulator.calls import Calls
from runner.simulator.faults import BATCH_FAULTS, ERRORS, FATE, LINE, OUTPUT, RESULT
from runner.simulator.files import Files
from runner.simulator.ledger import body_digest
from runner.simulator.profiles import find_profile

LINES = [line(number) for number in range(50)]
IDS = {one["custom_id"] for one in LINES}
VALIDATION = {
    "batch-invalid": ("invalid_json_line", 50),
    "batch-unseen": ("invalid_request", None),
    "batch-tokens": ("token_limit_exceeded", None),
    "batch-money": ("billing_hard_limit_reached", None),
}
PARTIAL = {"batch-expired": "expired", "batch-cancelled": "cancelled"}
SLOW = ("validating", "in_progress", "finalizing", "cancelling")
# Of 50 lines that all meet the fault: how many are run, and how many lines stand in each file.
LINES_OUT = {
    "line-0": (0, 0, 50),
    "line-429": (0, 0, 50),
    "line-500": (0, 0, 50),
    "line-500-output": (0, 50, 0),
    "line-error": (0, 0, 50),
    "line-missing": (0, 0, 0),
    "line-lost": (50, 0, 0),
    "line-doubled": (50, 100, 0),
    "line-conflict": (50, 100, 0),
    "line-both": (50, 50, 50),
    "line-stranger": (50, 100, 0),
    "line-null-id": (50, 50, 0),
    "line-number-id": (50, 50, 0),
    "line-no-id": (50, 50, 0),
    "line-u2028": (50, 50, 0),
    "line-utf8": (50, 50, 0),
    "line-cut": (50, 50, 0),
}
FILES = {"output": ("null", "blank", "404", "late"), "errors": ("null", "blank", "404", "empty")}
SHAPES = ("no-newline", "crlf", "blank-lines", "bom", "counts", "no-usage")


def data_of(client: Any, file_id: str | None) -> list[bytes]:
    """The lines of a result file, which may not be JSON."""
    return client.files.content(file_id).read().split(b"\n")[:-1] if file_id else []


def ended(client: Any, lines: list[Any] = LINES) -> Any:
    return until(client, create(client, lines), TERMINAL)[0]


def test_each_fault_of_an_outcome_is_tested_here() -> None:
    def known(kind: str) -> set[str]:
        return {name for name, fault in BATCH_FAULTS.items() if fault.form == kind}

    assert known(FATE) == VALIDATION.keys() | PARTIAL.keys() | {f"batch-slow-{state}" for state in SLOW}
    assert known(LINE) == LINES_OUT.keys()
    assert known(OUTPUT) | known(ERRORS) == {f"{kind}-{way}" for kind, ways in FILES.items() for way in ways}
    assert known(RESULT) == {f"result-{shape}" for shape in SHAPES}


def test_the_readme_names_each_fault() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert [name for name in BATCH_FAULTS if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("name", VALIDATION)
def test_a_batch_fails_at_validation_and_its_requests_pass_the_next_time(name: str) -> None:
    with simulated(f"{name}=1@first") as (simulator, client):
        failed = ended(client)
        assert failed.status == "failed"
        (error,) = failed.errors.data
        assert (error.code, error.line) == VALIDATION[name]
        assert (failed.output_file_id, failed.error_file_id) == (None, None)
        assert simulator.ledger()["executed"] == 0
        assert ended(client).status == "completed"
        assert ended(client, [line(1000)]).status == "failed"


@pytest.mark.parametrize("name", PARTIAL)
def test_a_batch_ends_with_a_share_of_its_lines_and_the_rest_passes_the_next_time(name: str) -> None:
    with simulated(f"{name}:0.4=1@first") as (simulator, client):
        partial = ended(client)
        assert partial.status == PARTIAL[name]
        assert getattr(partial, f"{PARTIAL[name]}_at") >= partial.in_progress_at
        done, undone = (
            lines_of(client, partial.output_file_id),
            lines_of(client, partial.error_file_id),
        )
        assert (len(done), len(undone)) == (20, 30)
        code = name.replace("-", "_")
        assert {(one["error"]["code"], one["response"]) for one in undone} == {(code, None)}
        assert partial.request_counts.model_dump() == {"total": 50, "completed": 20, "failed": 0}
        left = {one["custom_id"] for one in undone}
        rest = ended(client, [one for one in LINES if one["custom_id"] in left])
        assert rest.status == "completed"
        assert {one["custom_id"] for one in lines_of(client, rest.output_file_id)} == left
        assert set(simulator.ledger()["executions"].values()) == {1}


@pytest.mark.parametrize("state", SLOW)
def test_a_batch_stays_in_a_state(state: str) -> None:
    with simulated(f"batch-slow-{state}=1") as (_, client):
        batch = create(client, LINES)
        if state == "cancelling":
            client.batches.cancel(batch.id)
            assert client.batches.retrieve(batch.id).status == "cancelling"
            return
        until(client, batch, {state})
        assert client.batches.cancel(batch.id).status == "cancelling"
        assert until(client, batch, TERMINAL)[0].status == "cancelled"


@pytest.mark.parametrize("name", LINES_OUT)
def test_lines_come_out_odd(name: str) -> None:
    with simulated(f"{name}=1", batch_time=0) as (simulator, client):
        done = ended(client)
        assert done.status == "completed"
        output, errors = data_of(client, done.output_file_id), data_of(client, done.error_file_id)
        assert (simulator.ledger()["executed"], len(output), len(errors)) == LINES_OUT[name]
        failed = 50 if name in ("line-429", "line-500", "line-500-output", "line-error") else 0
        assert done.request_counts.model_dump() == {"total": 50, "completed": 50 - failed, "failed": failed}


def test_half_of_the_lines_are_odd_and_the_others_sound() -> None:
    with simulated("line-missing=0.5@first", batch_time=0) as (simulator, client):
        first = ended(client)
        seen = {one["custom_id"] for one in lines_of(client, first.output_file_id)}
        assert 5 < len(seen) < 45
        rest = ended(client, [one for one in LINES if one["custom_id"] not in seen])
        assert seen | {one["custom_id"] for one in lines_of(client, rest.output_file_id)} == IDS
        assert list(simulator.ledger()["executions"].values()) == [1] * 50
    with simulated("line-missing=0.5@first", batch_time=0) as (_, client):
        again = ended(client, LINES[::-1])
        assert {one["custom_id"] for one in lines_of(client, again.output_file_id)} == seen


def test_odd_lines_look_as_their_names_say() -> None:
    def first(name: str) -> tuple[list[bytes], list[bytes]]:
        with simulated(f"{name}=1", batch_time=0) as (_, client):
            done = ended(client, LINES[:1])
            return data_of(client, done.output_file_id), data_of(client, done.error_file_id)

    zero = json.loads(first("line-0")[1][0])
    assert zero["response"] == {"status_code": 0, "request_id": "", "body": ""}
    assert zero["error"] is None
    for name, status in (("line-429", 429), ("line-500", 500), ("line-both", 500)):
        assert json.loads(first(name)[1][0])["response"]["status_code"] == status
    assert json.loads(first("line-error")[1][0])["error"]["code"] == "server_error"
    raw = first("line-u2028")[0][0]
    assert "\u2028\u2029\u0085".encode() in raw
    assert json.loads(raw)["custom_id"] == "row-0"
    with pytest.raises(UnicodeDecodeError):
        first("line-utf8")[0][0].decode()
    with pytest.raises(json.JSONDecodeError):
        json.loads(first("line-cut")[0][0])
    ids = [json.loads(first(f"line-{kind}")[0][-1]) for kind in ("null-id", "number-id", "no-id", "stranger")]
    assert [one["custom_id"] for one in ids] == [None, 17, "row-0", "row-0-of-nobody"]
    assert ["id" in one for one in ids] == [True, True, False, True]
    one, other = (json.loads(text)["response"]["body"]["output"] for text in first("line-conflict")[0])
    assert one != other


def test_result_files_are_null_blank_gone_or_late() -> None:
    clock = Clock()
    for kind, field in (("output", "output_file_id"), ("errors", "error_file_id")):
        for way, shown in (("null", None), ("blank", "")):
            with simulated(f"{kind}-{way}=1,line-500=0.5", batch_time=0) as (_, client):
                done = ended(client)
                assert (done.status, getattr(done, field)) == ("completed", shown)
        with simulated(f"{kind}-404=1,line-500=0.5", batch_time=0) as (_, client):
            done = ended(client)
            with pytest.raises(openai.NotFoundError):
                client.files.content(getattr(done, field))
    with simulated("output-null=1,errors-null=1,line-500=0.5", batch_time=0) as (_, client):
        done = ended(client)
        assert (done.output_file_id, done.error_file_id) == (None, None)
    with simulated("errors-empty=1", batch_time=0) as (_, client):
        assert client.files.content(ended(client).error_file_id).read() == b""
    with simulated("output-late:60=1", batch_time=0, clock=clock) as (_, client):
        done = ended(client)
        assert (done.status, done.output_file_id) == ("completed", None)
        clock.now += 60
        assert len(lines_of(client, client.batches.retrieve(done.id).output_file_id)) == 50


def test_result_files_have_odd_shapes() -> None:
    def shaped(shape: str) -> tuple[Any, bytes]:
        with simulated(f"result-{shape}=1,line-500=0.2", batch_time=0) as (_, client):
            done = ended(client)
            return done, client.files.content(done.output_file_id).read()

    sound = shaped("counts")[1]
    assert shaped("no-newline")[1] == sound[:-1]
    assert shaped("crlf")[1] == sound.replace(b"\n", b"\r\n")
    assert shaped("blank-lines")[1] == sound.replace(b"\n", b"\n\n")
    assert shaped("bom")[1] == b"\xef\xbb\xbf" + sound
    assert shaped("counts")[0].request_counts.model_dump() == {"total": 50, "completed": 50, "failed": 0}
    assert shaped("no-usage")[0].usage is None


def test_any_state_with_any_files_can_be_shown() -> None:
    with simulated(batch_time=0) as (simulator, client):
        done = ended(client)
        force = simulator.url.removesuffix("/v1") + f"/sim/batches/{done.id}"
        fields = {"status": "finalizing", "output_file_id": "", "error_file_id": "file-gone"}
        assert httpx2.post(force, json=fields).status_code == 200
        shown = client.batches.retrieve(done.id)
        assert {name: getattr(shown, name) for name in fields} == fields
        assert httpx2.post(force, json={}).status_code == 200
        assert client.batches.retrieve(done.id) == done
        assert httpx2.post(force, json=[]).status_code == 400


def test_the_queue_holds_so_many_tokens_of_a_model() -> None:
    stays = "batch-slow-in_progress:600=1"
    with simulated(stays, batch_time=0, enqueued_tokens=600) as (simulator, client):
        first = create(client, LINES)
        until(client, first, {"in_progress"})
        failed = ended(client)
        (error,) = failed.errors.data
        assert (failed.status, error.code, error.line) == ("failed", "token_limit_exceeded", None)
        assert "Limit: 600 enqueued tokens" in error.message
        other = create(client, [line(number, model="gpt-6-sol") for number in range(50)])
        until(client, other, {"in_progress"})
        client.batches.cancel(first.id)
        until(client, first, TERMINAL)
        until(client, create(client, LINES), {"in_progress"})
        assert [entry["status"] for entry in simulator.ledger()["batches"]].count("failed") == 1


def test_batches_an_hour_and_uploads_a_minute_are_bounded() -> None:
    clock = Clock()
    with simulated(batch_time=0, clock=clock, batches_per_hour=2, uploads_per_minute=3) as (_, client):
        for _ in range(2):
            create(client, LINES)
        with pytest.raises(openai.RateLimitError, match="at most 2 batches"):
            create(client, LINES)
        with pytest.raises(openai.RateLimitError):
            upload(client, LINES)
        clock.now += 60
        file_id = upload(client, LINES)
        clock.now += 3540
        client.batches.create(input_file_id=file_id, endpoint="/v1/responses", completion_window="24h")


def test_the_ledger_tells_what_each_batch_ran_and_cost() -> None:
    with simulated("500=0.2@first", batch_time=0) as (simulator, client):
        first = create(client, LINES, metadata={"shard": "1"})
        done, _ = until(client, first, TERMINAL)
        again = ended(client, LINES[:10])
        assert client.responses.create(**LINES[0]["body"]).status == "completed"
        book = simulator.ledger()
        one, other = book["batches"]
        upload_of = {entry["id"]: entry for entry in book["files"]}
        assert one["input_sha256"] == upload_of[first.input_file_id]["sha256"]
        assert (one["id"], one["metadata"], one["status"]) == (first.id, {"shard": "1"}, "completed")
        assert (one["created_at"], one["requests"]) == (first.created_at, 50)
        answered = {answer["custom_id"] for answer in lines_of(client, done.output_file_id)}
        bodies = {body_digest(one["body"]).hex() for one in LINES if one["custom_id"] in answered}
        assert one["executions"] == dict.fromkeys(bodies, 1)
        assert one["executed"] == len(answered) == done.request_counts.completed < 50
        price = (
            Decimal("0.05") * done.usage.input_tokens + Decimal("0.25") * done.usage.output_tokens
        ) / 1_000_000
        assert Decimal(one["cost_usd"]) == price
        assert (other["id"], other["executed"]) == (again.id, 10)
        twice = {body for body, times in book["executions"].items() if times > 1}
        assert twice <= other["executions"].keys()
        assert book["executed"] == one["executed"] + other["executed"] + 1
        assert simulator.ledger() == book


@pytest.mark.parametrize(("hours", "state", "answered"), [(10, "completed", 96), (48, "expired", 48)])
def test_days_pass_in_virtual_time(hours: int, state: str, answered: int) -> None:
    lines = b"".join(json.dumps(line(number)).encode() + b"\n" for number in range(96))

    async def live() -> tuple[Any, float]:
        calls = Calls(Settings(batch_time=hours * 3600), clock=virtual_now, wall=virtual_now)
        files = Files(seed=0, wall=virtual_now, clock=virtual_now, meet=calls.meet)
        profile = find_profile("openai")
        batches = Batches(calls, files, profile=profile, clock=virtual_now, wall=virtual_now)
        with files.open_new() as stream:
            stream.write(lines)
        stored = files.keep(Path(stream.name), filename="in.jsonl", purpose="batch")
        made = await batches.create(
            {"input_file_id": stored.id, "endpoint": "/v1/responses", "completion_window": "24h"}
        )
        batch, _ = batches.poll(made["id"])
        assert batch.task is not None
        await batch.task
        files.close()
        return batch.shown, virtual_now()

    shown, now = run_virtually(live)
    assert (shown["status"], shown["request_counts"]["completed"]) == (state, answered)
    assert now == pytest.approx(min(hours, 24) * 3600, rel=0.03)
