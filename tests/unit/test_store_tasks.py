"""Tasks: claimed before they are sent, settled with their answer in one transaction, recovered, retried."""

import time
from collections.abc import Callable, Sequence
from enum import StrEnum

import pytest
from scene import USAGE, Scene, answer_of, chat_body, request_line, request_lines, settlement
from sqlalchemy import Connection

from runner.errors import StoreUnusable
from runner.model import Outcome, TaskState, Usage
from runner.store import answers, bulk, tasks, totals
from runner.store.answers import checksum
from runner.store.clock import now
from runner.store.database import Store
from runner.store.tasks import Claim


@pytest.fixture
def scene(store: Store) -> Scene:
    made = Scene(store, request_lines(5))
    made.expand()
    return made


def ready(scene: Scene, *, limit: int = 100, max_bytes: int = 10**9) -> list[tasks.Ready]:
    with scene.store.read() as connection:
        return tasks.ready(connection, run_id=scene.run.id, limit=limit, max_bytes=max_bytes)


def test_tasks_come_in_input_order(scene: Scene) -> None:
    assert [one.line for one in ready(scene)] == [1, 2, 3, 4, 5]
    assert [one.key for one in ready(scene)] == ["r0", "r1", "r2", "r3", "r4"]
    assert [one.record for one in ready(scene, limit=2)] == request_lines(2)


def test_only_so_many_bytes_are_taken_at_once_but_one_at_least(scene: Scene) -> None:
    size = len(request_line("r0", "question 0"))

    assert len(ready(scene, max_bytes=1)) == 1
    assert len(ready(scene, max_bytes=2 * size)) == 2


def test_what_is_due_later_waits_its_turn(scene: Scene) -> None:
    [first, second, *_] = ready(scene)
    [call] = scene.claim(first.task_id)
    later = now() + 60_000_000
    scene.settle(settlement(call, first.task_id, TaskState.READY, due_at=later, attempts=3))

    assert first.task_id not in {one.task_id for one in ready(scene)}
    with scene.store.read() as connection:
        assert tasks.next_due(connection, scene.run.id) is not None
    for one in ready(scene):
        [call] = scene.claim(one.task_id)
        scene.settle(settlement(call, one.task_id, TaskState.FAILED, error="{}"))
    with scene.store.read() as connection:
        assert tasks.next_due(connection, scene.run.id) == later
    assert second.attempts == 0


def test_a_task_put_back_comes_after_those_that_never_had_a_turn(scene: Scene) -> None:
    first = ready(scene)[0].task_id
    [call] = scene.claim(first)
    scene.settle(settlement(call, first, TaskState.READY, due_at=now(), attempts=1))

    assert [one.task_id for one in ready(scene)][-1] == first
    assert ready(scene)[-1].attempts == 1


def test_no_task_waits_where_all_are_done(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    with store.read() as connection:
        assert tasks.next_due(connection, scene.run.id) is None


def test_the_claim_is_the_intent(scene: Scene) -> None:
    first, second, *_ = (one.task_id for one in ready(scene))
    calls = scene.claim(first, second, reserved=77)

    assert calls[1] == calls[0] + 1
    assert scene.query("SELECT id, run_id, epoch, reserved FROM call") == [
        (call, scene.run.id, scene.tenure.epoch, 77) for call in calls
    ]
    assert scene.query("SELECT call_id FROM task WHERE state = 'in_flight' ORDER BY id") == [
        (one,) for one in calls
    ]


def test_of_claims_all_or_none_are_written(scene: Scene) -> None:
    first, second, *_ = (one.task_id for one in ready(scene))
    scene.claim(first)
    before = scene.dump()

    with pytest.raises(StoreUnusable, match="1 of 2 tasks"):
        scene.claim(second, first)
    assert scene.dump() == before


def test_an_unknown_price_is_reserved_as_unknown(scene: Scene) -> None:
    scene.claim(ready(scene)[0].task_id, reserved=None)

    assert scene.query("SELECT reserved FROM call") == [(None,)]


def test_an_answer_and_its_task_are_one_transaction(scene: Scene) -> None:
    task = ready(scene)[0].task_id
    [call] = scene.claim(task)
    body = chat_body("é\u2028")
    one = settlement(
        call,
        task,
        TaskState.ANSWERED,
        answer=answer_of(body, Usage(1, 2, 3, 4, 5, 6), 10**17),
        finish_reason="stop",
    )
    scene.settle(one)

    [row] = scene.query(
        "SELECT task.state, task.finish_reason, answer.body, answer.checksum, answer.cost, input_tokens,"
        " cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, total_tokens"
        " FROM task JOIN answer ON answer.id = task.answer_id"
    )
    assert row == ("answered", "stop", body, checksum(body), 10**17, 1, 2, 3, 4, 5, 6)


class Died(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("statement", ["INSERT INTO answer", "INSERT INTO attempt", "UPDATE OR FAIL task"])
@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_death_within_settle_leaves_no_half_of_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, statement: str, moment: str, noted: bool
) -> None:
    task = ready(scene)[0].task_id
    [call] = scene.claim(task)
    before = scene.dump()
    ending = settlement(call, task, TaskState.ANSWERED, answer=answer_of(chat_body()), noted=noted)

    def dying(execute: Callable[..., int]) -> Callable[..., int]:
        def run(connection: Connection, sql: str, rows: Sequence[Sequence[object]]) -> int:
            if not sql.startswith(statement):
                return execute(connection, sql, rows)
            if moment == "after":
                execute(connection, sql, rows)
            raise Died

        return run

    with monkeypatch.context() as patched:
        patched.setattr(bulk, "run", dying(bulk.run))
        patched.setattr(bulk, "add", dying(bulk.add))
        with pytest.raises(Died):
            scene.settle(ending)

    assert scene.dump() == before
    scene.settle(ending)
    assert scene.query("SELECT count(*) FROM answer") == [(1,)]


def test_a_body_of_no_use_is_kept_all_the_same(scene: Scene) -> None:
    task = ready(scene)[0].task_id
    [call] = scene.claim(task)
    scene.settle(
        settlement(
            call,
            task,
            TaskState.READY,
            outcome=Outcome.AMBIGUOUS,
            answer=answer_of(b"<html>", None, None, None),
        )
    )

    assert scene.query("SELECT body, input_tokens, cost, model FROM answer") == [
        (b"<html>", None, None, None)
    ]
    assert scene.query("SELECT answer_id FROM task WHERE id = ?", task) == [(None,)]


@pytest.mark.parametrize("to", [TaskState.READY, TaskState.ANSWERED, TaskState.FAILED])
def test_an_answer_to_an_older_call_changes_nothing(scene: Scene, to: TaskState) -> None:
    task = ready(scene)[0].task_id
    [old] = scene.claim(task)
    scene.settle(settlement(old, task, TaskState.READY))
    [new] = scene.claim(task)
    before = scene.dump()

    with pytest.raises(StoreUnusable, match="refused to settle"):
        scene.settle(settlement(old, task, to, answer=answer_of(b"late")))

    assert scene.dump() == before
    scene.settle(settlement(new, task, TaskState.ANSWERED, answer=answer_of(b"in time")))


def test_one_late_answer_takes_its_whole_group_back(scene: Scene) -> None:
    first, second, *_ = (one.task_id for one in ready(scene))
    calls = scene.claim(first, second)
    scene.settle(settlement(calls[0], first, TaskState.FAILED, error="{}"))
    before = scene.dump()

    with pytest.raises(StoreUnusable):
        scene.settle(
            settlement(calls[1], second, TaskState.ANSWERED, answer=answer_of(b"1")),
            settlement(calls[0], first, TaskState.ANSWERED, answer=answer_of(b"2")),
        )
    assert scene.dump() == before


class NoState(StrEnum):
    """A state that no task may have."""

    LOST = "lost"


@pytest.mark.parametrize("packed", [False, True])
def test_what_the_store_itself_refuses_takes_its_whole_group_back(scene: Scene, packed: bool) -> None:
    found = [one.task_id for one in ready(scene)]
    calls = scene.claim(*found)
    before = scene.dump()

    good = settlement(calls[0], found[0], TaskState.ANSWERED, answer=answer_of(b"1"), noted=False)
    wrong = settlement(calls[1], found[1], NoState.LOST, tasks=1 + packed)
    with pytest.raises(StoreUnusable, match="CHECK"):
        scene.settle(good, settlement(calls[2], found[2], TaskState.READY), wrong)
    assert scene.dump() == before
    scene.settle(good)
    assert scene.states() == ["answered"] + ["in_flight"] * 4


@pytest.mark.parametrize("to", [TaskState.READY, TaskState.HELD, TaskState.FAILED])
def test_what_is_not_written_down_goes_where_it_says_all_the_same(scene: Scene, to: TaskState) -> None:
    task = ready(scene)[0].task_id
    [call] = scene.claim(task)
    scene.settle(settlement(call, task, to, noted=False))
    assert scene.states()[0] == to


@pytest.mark.parametrize("many", [-1, 1_000_000])
def test_of_equal_questions_the_first_row_is_asked_however_many_tasks_there_are(
    store: Store, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    monkeypatch.setattr(tasks, "MANY_TASKS", many)
    scene = Scene(store, request_lines(1))
    lines = [request_line(f"k{n}", f"question {n % 7}") for n in range(40)]
    scene.run = scene.new_run(lines, dedupe=True)
    scene.expand()

    assert [one.line for one in ready(scene)] == [1, 2, 3, 4, 5, 6, 7]
    numbers = [one.task_id for one in ready(scene)]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("to", "error"),
    [(TaskState.READY, None), (TaskState.HELD, '{"code":"x"}'), (TaskState.FAILED, '{"code":"x"}')],
)
def test_what_a_dead_process_left_in_flight_is_ambiguous(
    scene: Scene, to: TaskState, error: str | None
) -> None:
    first, second, third, *_ = (one.task_id for one in ready(scene))
    scene.claim(first, second)
    [call] = scene.claim(third)
    scene.settle(settlement(call, third, TaskState.ANSWERED, answer=answer_of(chat_body())))
    with scene.store.write() as connection:
        assert tasks.recover(connection, series_id=scene.tenure.series_id, to=to, error=error) == 2
        assert tasks.recover(connection, series_id=scene.tenure.series_id, to=to, error=error) == 0

    assert (
        scene.query("SELECT state, error FROM task WHERE id IN (?, ?)", first, second)
        == [(to.value, error)] * 2
    )
    assert scene.query("SELECT task_id, kind, code FROM attempt WHERE outcome = 'ambiguous' ORDER BY 1") == [
        (first, "ambiguous", "process_ended"),
        (second, "ambiguous", "process_ended"),
    ]


def test_recovery_is_of_one_series(scene: Scene) -> None:
    scene.claim(ready(scene)[0].task_id)
    with scene.store.write() as connection:
        assert (
            tasks.recover(connection, series_id=scene.tenure.series_id + 1, to=TaskState.READY, error=None)
            == 0
        )


@pytest.mark.parametrize(
    ("reason", "fault", "again"),
    [
        ("stop", None, 0),
        ("length", None, 1),
        ("stop", '{"code":"schema_mismatch"}', 1),
        ("tool_calls", None, 0),
    ],
)
def test_retry_takes_answers_that_are_no_success(
    scene: Scene, reason: str, fault: str | None, again: int
) -> None:
    scene.answer(chat_body(), reason=reason, fault=fault)
    with scene.store.write() as connection:
        found = tasks.retry(
            connection,
            run_id=scene.run.id,
            series_id=scene.tenure.series_id,
            accepted=["stop", "tool_calls"],
        )

    assert found == again
    # The body was paid for: it stays, whatever becomes of its task.
    assert scene.query("SELECT count(*) FROM answer") == [(1,)]
    if again:
        assert scene.query(
            "SELECT attempts, answer_id, fault, finish_reason, error FROM task WHERE id = 1"
        ) == [(0, None, None, None, None)]


def test_what_answered_a_task_is_written_down_once_it_is_asked_again(scene: Scene) -> None:
    [one, *_] = ready(scene)
    for again in range(3):
        [call] = scene.claim(one.task_id)
        answer = answer_of(chat_body(f"cut {again}"))
        scene.settle(
            settlement(
                call, one.task_id, TaskState.ANSWERED, finish_reason="length", answer=answer, noted=False
            )
        )
        assert scene.query("SELECT count(*) FROM attempt") == [(again,)]
        for expected in (1, 0):
            with scene.store.write() as connection:
                found = tasks.retry(
                    connection, run_id=scene.run.id, series_id=scene.tenure.series_id, accepted=["stop"]
                )
            assert found == expected
        assert scene.query("SELECT call_id, task_id, outcome, kind, status, request_id FROM attempt")[
            again:
        ] == [(call, one.task_id, "ok", "answered", 200, "req_1")]
    with scene.store.read() as connection:
        [sums] = totals.asked_again(connection, scene.run.id).values()
    assert (sums.rows, sums.priced + sums.unpriced) == (0, 3)


def test_retry_is_of_one_run(scene: Scene) -> None:
    scene.fail({"code": "x"})
    other = scene.new_run([request_line("z", "something else")])
    with scene.store.write() as connection:
        assert (
            tasks.retry(connection, run_id=other.id, series_id=scene.tenure.series_id, accepted=["stop"]) == 0
        )


def test_damaged_bodies_are_found(scene: Scene) -> None:
    for text in "abc":
        scene.answer(chat_body(text))
    with scene.store.write() as connection:
        assert answers.check(connection) == (3, 0)
        connection.exec_driver_sql("UPDATE answer SET body = x'00' WHERE id = 2")
        assert answers.check(connection) == (3, 1)


def test_numbers_are_not_given_twice_by_two_processes(scene: Scene) -> None:
    with Store.open(str(scene.store.path)) as second:
        other = Scene.__new__(Scene)
        other.store, other.run, other.tenure, other.job = second, scene.run, scene.tenure, scene.job
        ids = [one.task_id for one in ready(scene)]
        calls = [*scene.claim(ids[0]), *other.claim(ids[1]), *scene.claim(ids[2]), *other.claim(ids[3])]
        assert len(set(calls)) == 4


def test_a_question_is_answered_for_its_series_only(scene: Scene) -> None:
    [(hash_,)] = scene.query("SELECT hash FROM row ORDER BY id LIMIT 1")
    with scene.store.read() as connection:
        assert not tasks.is_answered(connection, scene.tenure.series_id, hash_, 0)
    scene.answer(chat_body())
    with scene.store.read() as connection:
        assert tasks.is_answered(connection, scene.tenure.series_id, hash_, 0)
        assert not tasks.is_answered(connection, scene.tenure.series_id, hash_, 1)
        assert not tasks.is_answered(connection, scene.tenure.series_id + 1, hash_, 0)


def test_answers_that_came_without_a_price_are_priced_once(scene: Scene) -> None:
    scene.answer(chat_body(), cost=None)
    scene.answer(chat_body(), cost=5)
    scene.answer(chat_body(), cost=None, usage=None)
    with scene.store.write() as connection:
        [one] = answers.unpriced(connection, scene.tenure.series_id, after=0, limit=10)
        assert (one.model, one.usage) == ("m", USAGE)
        answers.set_costs(connection, [(9, one.answer_id), (9, 2)])
        answers.set_costs(connection, [])
        assert answers.unpriced(connection, scene.tenure.series_id, after=0, limit=10) == []

    assert scene.query("SELECT cost FROM answer ORDER BY id") == [(9,), (5,), (None,)]


def test_claims_of_several_tasks_in_one_call(scene: Scene) -> None:
    ids = tuple(one.task_id for one in ready(scene)[:3])
    with scene.store.write() as connection:
        [call] = tasks.claim(connection, [Claim(scene.run.id, scene.tenure.epoch, ids, 5)])

    assert scene.query("SELECT count(*) FROM task WHERE call_id = ? AND state = 'in_flight'", call) == [(3,)]


def test_the_clock_is_utc_in_microseconds() -> None:
    assert abs(now() - time.time() * 1_000_000) < 5_000_000
