"""Runs: made, found by a beginning of their id, told to stop, drawn, forgotten."""

import pytest
from scene import IDENTITY, Scene, chat_body, request_lines

from runner import takeup
from runner.errors import UsageError
from runner.model import RunState
from runner.store import batches, runs, series
from runner.store.database import Store
from runner.store.runs import Beat, Fingerprint, Run, line_of, row_id


def test_a_row_id_is_run_and_line_in_input_order() -> None:
    pairs = [(1, 0), (1, 1), (1, 2**40 - 1), (2, 0), (7, 12)]

    assert sorted(row_id(*pair) for pair in pairs) == [row_id(*pair) for pair in pairs]
    assert [line_of(row_id(*pair)) for pair in pairs] == [line for _, line in pairs]
    assert row_id(2**22, 2**40 - 1) < 2**63


def test_a_new_run_waits_for_its_input(store: Store) -> None:
    with store.write() as connection:
        tenure = series.take(connection, IDENTITY)
        made = runs.create(
            connection, series_id=tenure.series_id, meaning="m", job={"name": "é\u2028"}, row_limit=7
        )

    assert made.state is RunState.INGESTING
    assert made.job == {"name": "é\u2028"}
    assert (made.row_limit, made.rows_in, made.summary, made.finished_at) == (7, 0, None, None)
    assert made.fingerprint == Fingerprint(None, None, None, None)
    assert made.name.isalnum()


def named(store: Store, *names: str) -> list[Run]:
    scene = Scene(store, [])
    with store.write() as connection:
        connection.exec_driver_sql("DELETE FROM run")
        for name in names:
            one = runs.create(
                connection, series_id=scene.tenure.series_id, meaning="", job={}, row_limit=None
            )
            connection.exec_driver_sql("UPDATE run SET name = ? WHERE id = ?", (name, one.id))
    with store.read() as connection:
        return list(reversed(runs.newest(connection, 100)))


@pytest.mark.parametrize(
    ("asked", "found"),
    [("last", "zeta22"), ("abc", "abcd"), ("abcd", "abcd"), ("abe", "abef"), ("zeta22", "zeta22")],
)
def test_a_run_is_found_by_a_unique_beginning(store: Store, asked: str, found: str) -> None:
    named(store, "abcd", "abef", "zeta1", "zeta22")
    with store.read() as connection:
        assert runs.find(connection, asked).name == found


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("ab", "abcd, abef"),
        ("x", "No run 'x'"),
        ("%", "No run"),
        ("a_c", "No run"),
        ("", "begins several"),
        ("'; --", "No run"),
    ],
)
def test_no_run_and_several_are_told(store: Store, asked: str, words: str) -> None:
    named(store, "abcd", "abef")
    with pytest.raises(UsageError, match=words), store.read() as connection:
        runs.find(connection, asked)


def test_last_of_an_empty_store_is_told(store: Store) -> None:
    with pytest.raises(UsageError, match="runner status"), store.read() as connection:
        runs.find(connection, "last")


def test_a_series_lists_its_own_runs_newest_first(store: Store) -> None:
    made = named(store, "one", "two", "three")
    Scene(store, [], identity=series.Identity("other", "", "", "", "", "", ""))
    with store.read() as connection:
        assert [one.name for one in runs.of_series(connection, made[0].series_id)] == ["three", "two", "one"]
        assert len(runs.newest(connection, 2)) == 2


def test_the_end_is_dated_and_undated_again(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    for state, dated in ((RunState.FINISHED, True), (RunState.ACTIVE, False)):
        with store.write() as connection:
            runs.move(connection, scene.run.id, state)
            assert (runs.get(connection, scene.run.id).finished_at is not None) == dated


def test_a_beat_tells_whether_somebody_asked_to_stop(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    other = scene.new_run(request_lines(2))
    with store.write() as connection:
        runs.ask_to_stop(connection, other.id)
        asked = runs.beat(connection, [Beat(1, {"done": 1}), Beat(other.id, {"done": 2})])
        assert asked == [False, True]
        assert runs.get(connection, other.id).progress == {"done": 2}


def test_a_start_takes_the_wish_to_stop_back(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    with store.write() as connection:
        runs.ask_to_stop(connection, scene.run.id)
        runs.set_job(connection, scene.run.id, {"name": "new"}, skip_invalid=True)
        found = runs.get(connection, scene.run.id)
    assert (found.stop_requested, found.skip_invalid, found.job) == (False, True, {"name": "new"})


def test_rows_are_cleared_a_part_at_a_time_and_only_of_one_run(store: Store) -> None:
    scene = Scene(store, request_lines(10))
    other = scene.new_run(request_lines(3))
    with store.write() as connection:
        assert [runs.clear_rows(connection, 1, at_most=4) for _ in range(4)] == [4, 4, 2, 0]
    assert scene.query("SELECT count(*) FROM row WHERE id >= ?", row_id(other.id, 0)) == [(3,)]


def test_forgetting_answers_leaves_those_of_other_series(store: Store) -> None:
    scene = Scene(store, request_lines(3))
    scene.expand()
    for _ in range(2):
        scene.answer(chat_body())
    with store.write() as connection:
        runs.move(connection, scene.run.id, RunState.FINISHED)
        runs.set_drawn(connection, scene.run.id, "somewhere", {"rows": {}})
    other = Scene(store, request_lines(2), identity=series.Identity("other", "", "", "", "", "", ""))
    other.expand()
    other.answer(chat_body("theirs"))
    theirs = {
        name: other.query(f"SELECT * FROM {name} ORDER BY id DESC LIMIT 1") for name in ("answer", "attempt")
    }

    with store.write() as connection:
        assert runs.forget_answers(connection, scene.tenure.series_id) == 3
        run = runs.get(connection, scene.run.id)

    assert (run.state, run.summary, run.drawn_as, run.expanded_to) == (RunState.ACTIVE, None, None, 0)
    assert other.query("SELECT series_id, count(*) FROM task GROUP BY 1") == [(other.tenure.series_id, 2)]
    for name, kept in theirs.items():
        assert other.query(f"SELECT * FROM {name}") == kept
    scene.expand()
    assert len(scene.calls()) == 3


def test_nothing_is_forgotten_while_batches_are_out(store: Store) -> None:
    scene = Scene(store, request_lines(3))
    scene.expand()
    scene.plan(1)
    batch_id = scene.plan(2, 3)
    before = scene.dump()
    with pytest.raises(UsageError) as refused, store.write() as connection:
        runs.forget_answers(connection, scene.tenure.series_id)
    name = scene.run.name
    assert f"run {name}: 2 with 3 requests" in str(refused.value)
    assert f"`runner cancel {name}`" in str(refused.value)
    assert f"`runner resume {name}`" in str(refused.value)
    assert scene.dump() == before

    other = Scene(store, request_lines(1), identity=series.Identity("other", "", "", "", "", "", ""))
    other.expand()
    with store.write() as connection:
        assert runs.forget_answers(connection, other.tenure.series_id) == 1
        batches.dissolve(connection, [1, batch_id])
        assert runs.forget_answers(connection, scene.tenure.series_id) == 3
    assert scene.dump()["batch"] == []


def test_a_run_that_goes_takes_its_batches_with_it(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    scene.expand()
    batch_id = scene.plan(1)
    with store.write() as connection:
        batches.dissolve(connection, [batch_id])
    takeup.forget_run(store, scene.tenure, scene.run)
    assert scene.dump()["batch"] == []
    assert scene.dump()["run"] == []


def test_no_deletion_scans_a_table_for_each_row_that_goes(store: Store) -> None:
    """Each foreign key to a table of which many rows go has an index on its own side."""
    with store.read() as connection:
        tables = ("run", "row", "task", "call", "attempt", "answer", "artifact", "batch")
        keys = [
            (table, key[3])
            for table in tables
            for key in connection.exec_driver_sql(f"PRAGMA foreign_key_list({table})")
            if key[2] in ("row", "task", "call", "answer", "attempt")
        ]
        plans = {
            key: connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN SELECT 1 FROM {key[0]} WHERE {key[1]} = 1"
            ).one()[3]
            for key in keys
        }

    assert plans
    assert {key: plan for key, plan in plans.items() if not plan.startswith("SEARCH")} == {}
