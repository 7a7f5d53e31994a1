"""A run in the store, drawn again, stopped, forgotten; nothing of it asks or pays."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from scene import IDENTITY, Scene, chat_body, request_line, request_lines

from runner.errors import OutputUnwritable, SeriesLocked, UsageError
from runner.keeping import cancel, export_again, forget
from runner.model import RunState
from runner.store import runs, series
from runner.store.database import Store
from runner.store.locks import SeriesLock


def state_of(scene: Scene) -> RunState:
    with scene.store.read() as connection:
        return runs.get(connection, scene.run.id).state


def move(scene: Scene, *ways: RunState) -> None:
    with scene.store.write() as connection:
        for way in ways:
            runs.move(connection, scene.run.id, way)


def again(scene: Scene, output: Path | None, *, partial: bool = False, overwrite: bool = False) -> dict:  # type: ignore[type-arg]
    _, summary, where = export_again(
        str(scene.store.path), scene.run.name, output=output, partial=partial, overwrite=overwrite
    )
    assert output is None or where == output
    return summary


def test_a_finished_run_is_drawn_again_from_the_store_alone(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(2))
    scene.answer(chat_body("one"))
    scene.fail({"code": "c", "message": "m", "status": 400, "attempts": 1})
    move(scene, RunState.FINISHED)
    summary = again(scene, tmp_path / "again.jsonl")
    assert summary["rows"] == {"in": 2, "ok": 1, "failed": 1, "invalid": 0, "skipped": 0}
    assert orjson.loads((tmp_path / "again.jsonl.summary.json").read_bytes()) == summary
    assert len((tmp_path / "again.jsonl.errors.jsonl").read_bytes().split(b"\n")) == 2
    first = (tmp_path / "again.jsonl").read_bytes()
    again(scene, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == first


def test_a_run_that_is_not_finished_is_drawn_only_in_part(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(3))
    scene.answer(chat_body("one"))
    with pytest.raises(UsageError, match=r"2 rows are left.*--partial"):
        again(scene, tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []
    summary = again(scene, tmp_path / "out.jsonl", partial=True)
    assert summary["rows"] == {"in": 3, "ok": 1, "failed": 0, "invalid": 0, "skipped": 2}
    assert summary["complete"] is False
    assert state_of(scene) is RunState.ACTIVE


def test_a_run_without_an_output_of_its_own_asks_for_one(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    with pytest.raises(UsageError, match="-o"):
        again(scene, None)


@pytest.mark.parametrize("state", [RunState.INGESTING, RunState.REJECTED])
def test_a_run_whose_input_was_not_read_has_nothing_to_draw(
    store: Store, tmp_path: Path, state: RunState
) -> None:
    scene = Scene(store, request_lines(1))
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE run SET state = ?", (state.value,))
    with pytest.raises(UsageError, match=f"is {state}"):
        again(scene, tmp_path / "out.jsonl", partial=True)


def test_a_file_of_somebody_elses_is_safe_from_it(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(1))
    (tmp_path / "out.jsonl").write_bytes(b"mine")
    with pytest.raises(OutputUnwritable):
        again(scene, tmp_path / "out.jsonl", partial=True)
    assert (tmp_path / "out.jsonl").read_bytes() == b"mine"
    again(scene, tmp_path / "out.jsonl", partial=True, overwrite=True)
    assert (tmp_path / "out.jsonl").read_bytes() != b"mine"


def test_while_a_process_runs_the_series_only_it_writes(store: Store, tmp_path: Path) -> None:
    scene = Scene(store, request_lines(1))
    with SeriesLock(store.path, IDENTITY.digest):
        with pytest.raises(SeriesLocked):
            again(scene, tmp_path / "out.jsonl", partial=True)
        with pytest.raises(SeriesLocked):
            forget(str(store.path), scene.run.name)


def test_a_running_run_is_asked_to_stop(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    with SeriesLock(store.path, IDENTITY.digest):
        told = cancel(str(store.path), scene.run.name[:6])
    assert "was asked to stop (process" in told
    with store.read() as connection:
        this = runs.get(connection, scene.run.id)
    assert (this.stop_requested, this.state) == (True, RunState.ACTIVE)


def test_a_run_that_nobody_runs_is_cancelled_and_keeps_what_was_paid(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    scene.answer(chat_body())
    assert "is cancelled" in cancel(str(store.path), "last")
    assert state_of(scene) is RunState.CANCELLED
    assert scene.query("SELECT count(*) FROM answer") == [(1,)]


def test_a_finished_run_has_nothing_to_stop(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    move(scene, RunState.FINISHED)
    assert "nothing to stop" in cancel(str(store.path), "last")
    assert state_of(scene) is RunState.FINISHED


def test_a_forgotten_run_is_gone_with_its_series_answers(store: Store) -> None:
    scene = Scene(store, [request_line("a", "a very private question")])
    scene.answer(chat_body("a very private answer"))
    assert scene.run.name in forget(str(store.path), scene.run.name)
    for table in ("run", "row", "task", "call", "attempt", "answer"):
        assert scene.query(f"SELECT count(*) FROM {table}") == [(0,)], table
    with store.write() as connection:
        series.find(connection, IDENTITY)
    folder = store.path.parent
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"very private" not in kept


def test_forgetting_one_run_leaves_the_other_rows_to_be_asked_again(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    scene.answer(chat_body())
    move(scene, RunState.FINISHED)
    first = scene.run
    scene.new_run(request_lines(2))
    forget(str(store.path), scene.run.name)
    with store.read() as connection:
        [left] = runs.of_series(connection, first.series_id)
    assert (left.id, left.state, left.finished_at, left.summary) == (first.id, RunState.ACTIVE, None, None)


def test_a_run_that_is_not_there_is_named(store: Store) -> None:
    for verb in (cancel, forget):
        with pytest.raises(UsageError, match="No run 'nowhere'"):
            verb(str(store.path), "nowhere")
