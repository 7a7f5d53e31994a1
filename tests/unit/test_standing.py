"""Where runs stand, as the store alone tells it: states, counts, the commonest errors, what to do next."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs
from scene import IDENTITY, Scene, chat_body, request_lines, settlement

from runner.admission import QUEUE_FULL
from runner.cli.status import _one
from runner.model import Outcome, RunState, TaskState
from runner.remote import RemoteBatch
from runner.standing import all_runs, one_run
from runner.store import batches, runs
from runner.store.database import Store
from runner.store.locks import SeriesLock
from runner.submission import Stage


def standing(scene: Scene) -> dict:  # type: ignore[type-arg]
    return one_run(str(scene.store.path), scene.run.name)


def move(scene: Scene, *ways: RunState) -> None:
    with scene.store.write() as connection:
        for way in ways:
            runs.move(connection, scene.run.id, way)


def finish(scene: Scene, *, ok: int, failed: int) -> None:
    """The end of a run as the engine leaves it."""
    move(scene, RunState.FINISHED)
    summary = {"rows": {"ok": ok, "failed": failed}, "cost_usd": {"total": "1.25"}}
    with scene.store.write() as connection:
        runs.set_drawn(connection, scene.run.id, '["/out.jsonl"]', summary)


def test_a_store_without_runs(store: Store) -> None:
    assert all_runs(str(store.path), 10) == []


def test_the_newest_runs_come_first_and_no_more_than_asked_for(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    first = scene.run
    second = scene.new_run(request_lines(2))
    other = Scene(store, request_lines(3), identity=replace(IDENTITY, job_name="other"))
    found = all_runs(str(store.path), 10)
    assert [(one["run"], one["rows"]) for one in found] == [
        (other.run.name, 3),
        (second.name, 2),
        (first.name, 1),
    ]
    assert [one["job"] for one in found] == ["other", "requests", "requests"]
    assert len(all_runs(str(store.path), 2)) == 2


def test_a_run_that_nobody_runs_is_paused_and_says_how_to_go_on(store: Store) -> None:
    scene = Scene(store, [*request_lines(3), b"{"])
    scene.answer(chat_body())
    found = standing(scene)
    assert (found["state"], found["holder"], found["rows"]) == ("paused", None, 4)
    assert (found["ok"], found["failed"], found["invalid"], found["left"]) == (1, 0, 1, 2)
    assert f"runner resume {scene.run.name}" in found["next"]
    assert (found["provider"], found["origin"], found["input"]) == (
        "openai",
        "https://api.example",
        "/in/requests.jsonl",
    )


def test_a_run_at_work_says_who_runs_it_and_how_fast(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    progress = {"done": 1, "failed": 0, "cost_usd": "0.5", "rows_per_second": 2.5, "eta_seconds": 9}
    with store.write() as connection:
        runs.beat(connection, [runs.Beat(scene.run.id, progress)])
    with SeriesLock(store.path, IDENTITY.digest):
        found = standing(scene)
    assert found["state"] == "running"
    assert found["holder"].startswith("process ")
    assert (found["rows_per_second"], found["eta_seconds"], found["cost_usd"]) == (2.5, 9, "0")
    assert f"runner cancel {scene.run.name}" in found["next"]
    # A rate of a process that is gone is nobody's.
    assert (standing(scene)["rows_per_second"], standing(scene)["state"]) == (None, "paused")


@pytest.mark.parametrize(("failed", "advice"), [(0, "Nothing: every row is answered."), (1, "runner retry")])
def test_a_finished_run_says_what_its_summary_says(store: Store, failed: int, advice: str) -> None:
    scene = Scene(store, request_lines(2))
    finish(scene, ok=2 - failed, failed=failed)
    found = standing(scene)
    assert (found["state"], found["ok"], found["failed"], found["left"]) == (
        "finished",
        2 - failed,
        failed,
        0,
    )
    assert (found["cost_usd"], found["finished_at"] is None) == ("1.25", False)
    assert advice in found["next"]


def test_a_run_that_died_before_its_output_was_written_is_not_called_done(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    scene.answer(chat_body())
    move(scene, RunState.FINISHED)
    assert "same command" in standing(scene)["next"]


def test_held_rows_wait_for_the_user(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    scene.fail({"code": "timeout", "message": "m", "status": None, "attempts": 1}, to=TaskState.HELD)
    found = standing(scene)
    assert (found["held"], found["left"]) == (1, 0)
    assert f"runner retry {scene.run.name}" in found["next"]
    assert "charged" in found["next"]


def test_a_rejected_input_is_to_be_mended(store: Store) -> None:
    scene = Scene(store, [b"{"])
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE run SET state = 'rejected'")
    found = standing(scene)
    assert (found["state"], found["invalid"]) == ("rejected", 1)
    assert "--skip-invalid" in found["next"]


def test_the_commonest_errors_come_first_with_status_and_number(store: Store) -> None:
    scene = Scene(store, request_lines(3))
    first, second, third = (one.task_id for one in scene.calls())
    for task, code, status in (
        (first, "rate_limit_exceeded", 429),
        (first, "rate_limit_exceeded", 429),
        (second, "timeout", None),
        (third, "not_started", None),
    ):
        [call] = scene.claim(task, reserved=300)
        outcome = {"timeout": Outcome.AMBIGUOUS, "not_started": Outcome.NOT_SENT}.get(code, Outcome.REFUSED)
        ended = settlement(call, task, TaskState.READY, outcome=outcome)
        kind = "rate_limited" if status == 429 else "ambiguous"
        scene.settle(structs.replace(ended, kind=kind, code=code, status=status))
    found = standing(scene)
    assert found["errors"] == [
        {"code": "rate_limit_exceeded", "status": 429, "times": 2},
        {"code": "timeout", "status": None, "times": 1},
    ]
    assert (found["requests"], found["retries"], found["rate_limited"]) == (3, 1, 2)
    assert found["at_risk_usd"] == "0.0000000003"


def test_what_stands_there_is_json_and_holds_no_text_of_a_row(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    scene.answer(chat_body("a private answer"))
    text = json.dumps([standing(scene), all_runs(str(store.path), 5)])
    assert "question 0" not in text
    assert "private" not in text


def test_looking_changes_nothing(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    before = scene.dump()
    standing(scene)
    all_runs(str(store.path), 5)
    assert scene.dump() == before


def test_the_list_of_runs_does_not_count_failed_rows_as_answered(store: Store) -> None:
    scene = Scene(store, request_lines(3))
    with store.write() as connection:
        runs.beat(connection, [runs.Beat(scene.run.id, {"done": 3, "failed": 2, "cost_usd": "0"})])
    [found] = all_runs(str(store.path), 5)
    assert (found["ok"], found["failed"]) == (1, 2)


# Batches

AT = 1_800_000_000.0


def keep(scene: Scene, number: int, **changes: Any) -> None:
    """Keep how far the submission of a batch is."""
    with scene.store.write() as connection:
        kept = batches.get(connection, number)
        batches.keep(connection, [(number, kept.submission._replace(**changes))])
        connection.exec_driver_sql("UPDATE batch SET created_at = ?, submitted_at = NULL", (int(AT * 1e6),))


def with_batch(store: Store, rows: int = 3, *, of: int = 2) -> tuple[Scene, int]:
    """A run that has planned a batch of some of its rows."""
    scene = Scene(store, request_lines(rows))
    scene.expand()
    return scene, scene.plan(*[task for (task,) in scene.query(f"SELECT id FROM task LIMIT {of}")])


def at(scene: Scene, hours_later: float = 0.0) -> dict[str, Any]:
    return one_run(str(scene.store.path), scene.run.name, clock=lambda: AT + hours_later * 3600)


def seen(status: str, **more: Any) -> RemoteBatch:
    return RemoteBatch("batch_1", status, **more)


def test_a_run_whose_batches_are_out_waits_and_says_what_they_have_done(store: Store) -> None:
    scene, number = with_batch(store)
    keep(scene, number, stage=Stage.SUBMITTED, batch_id="batch_1")
    with store.write() as connection:
        batches.see(connection, [(number, seen("in_progress", completed=1, expires_at=AT + 86400))])
    found = at(scene, 2)
    assert found["state"] == "waiting"
    assert found["batches"] == [
        {
            "batch": "batch_1",
            "run": scene.run.name,
            "model": "m",
            "state": "in_progress",
            "sent": True,
            "lines": 2,
            "done": 1,
            "age_seconds": 7200,
            "waits_until": None,
            "odd": None,
        }
    ]
    assert found["left"] == 3
    assert f"`runner cancel {scene.run.name}` calls them off" in found["next"]
    assert all_runs(str(store.path), 5)[0]["state"] == "waiting"
    screen = "\n".join(_one(found))
    assert (
        "Batches   1 out (2 rows), 1 row in none yet\n          batch_1  in_progress, 2h00m old, 1 of 2 rows done"
        in screen
    )


def test_a_run_with_batches_out_that_somebody_runs_is_running(store: Store) -> None:
    scene, number = with_batch(store)
    keep(scene, number, stage=Stage.SUBMITTED, batch_id="batch_1")
    with SeriesLock(store.path, IDENTITY.digest):
        found = at(scene)
    assert found["state"] == "running"
    assert "stops it, and calls its batches off" in found["next"]


def test_what_was_not_sent_does_not_go_on_by_itself(store: Store) -> None:
    scene, number = with_batch(store)
    keep(scene, number, stage=Stage.UPLOADED, file_id="file-1")
    found = at(scene)
    assert (found["state"], found["batches"][0]["state"]) == ("paused", "uploaded")
    assert "Batches   1 not submitted yet (2 rows), 1 row in none yet" in _one(found)


def test_a_batch_that_waits_for_room_says_until_when(store: Store) -> None:
    scene, number = with_batch(store)
    keep(scene, number, stage=Stage.UPLOADED, file_id="file-1", due=AT + 300, words=QUEUE_FULL)
    found = at(scene)
    assert found["state"] == "waiting"
    assert (found["batches"][0]["state"], found["batches"][0]["waits_until"]) == (
        "queue_full",
        "2027-01-15T08:05:00Z",
    )
    assert "submits what waits, from 2027-01-15T08:05:00Z on" in found["next"]
    assert "waits for room in the account's queue, next try at 2027-01-15T08:05:00Z, 2 rows" in "\n".join(
        _one(found)
    )
    # Once its time has come, only a start can go on with it.
    assert at(scene, 1)["state"] == "paused"


@pytest.mark.parametrize(
    ("look", "hours_later", "odd"),
    [
        (seen("validating"), 3, "has been validating for 3h00m"),
        (seen("finalizing", expires_at=AT + 86400), 20, None),
        (seen("in_progress", expires_at=AT + 86400), 40, "16h00m after the time at which it was to expire"),
        (seen("missing"), 0, "there is no such batch"),
        (seen("pondering", expires_at=AT + 86400), 1, "which this version does not know"),
    ],
)
def test_what_is_odd_about_a_batch_is_said(
    store: Store, look: RemoteBatch, hours_later: float, odd: str | None
) -> None:
    scene, number = with_batch(store)
    keep(scene, number, stage=Stage.SUBMITTED, batch_id="batch_1")
    with store.write() as connection:
        batches.see(connection, [(number, look)])
    found = at(scene, hours_later)
    said = found["batches"][0]["odd"]
    assert said is None if odd is None else odd in said
    assert ("odd: " in "\n".join(_one(found))) == (odd is not None)


def test_a_create_of_unknown_fate_is_odd_and_waits(store: Store) -> None:
    scene, number = with_batch(store)
    keep(scene, number, stage=Stage.UNKNOWN, file_id="file-1", since=AT)
    found = at(scene)
    assert (found["state"], found["batches"][0]["state"]) == ("waiting", "unknown")
    assert "no answer tells whether it was created" in found["batches"][0]["odd"]


def test_batches_of_an_earlier_run_that_are_waited_for_are_shown_with_it(store: Store) -> None:
    scene, number = with_batch(store, of=3)
    first = scene.run
    keep(scene, number, stage=Stage.SUBMITTED, batch_id="batch_1")
    scene.new_run(request_lines(4))
    scene.expand()
    found = at(scene)
    assert [one["run"] for one in found["batches"]] == [first.name]
    assert f"of the earlier run {first.name}" in "\n".join(_one(found))


def test_how_batches_have_ended_is_counted(store: Store) -> None:
    scene, number = with_batch(store)
    with store.write() as connection:
        batches.dissolve(connection, [number])
    found = at(scene)
    assert (found["batches"], found["batches_ended"]) == ([], {"dissolved": 1})
    assert "Batches   1 dissolved" in _one(found)
