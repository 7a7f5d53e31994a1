"""Totals: what attempts came to, what was spent, what is left."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace
from scene import Scene, answer_of, chat_body, request_line, request_lines, settlement
from sqlalchemy import Connection

from runner.model import Kind, Outcome, TaskState
from runner.store import batches, rows, series, tasks, totals
from runner.store.database import Store
from runner.store.tasks import Claim


def attempts(scene: Scene) -> totals.Attempts:
    with scene.store.read() as connection:
        return totals.attempts(connection, scene.run.id)


def spent(scene: Scene) -> int:
    with scene.store.read() as connection:
        return totals.spent(connection, scene.run.id)


def unfinished(scene: Scene) -> int:
    with scene.store.read() as connection:
        return totals.unfinished(connection, scene.run.id)


def end(
    scene: Scene,
    outcome: Outcome,
    *,
    reserved: int | None = 100,
    kind: str = "x",
    to: TaskState = TaskState.READY,
) -> None:
    """One more try of the next ready task, without an answer."""
    task = scene.calls()[0].task_id
    [call] = scene.claim(task, reserved=reserved)
    scene.settle(replace(settlement(call, task, to, outcome=outcome, error="{}"), kind=kind))


def test_a_run_without_attempts_comes_to_nothing(store: Store) -> None:
    assert attempts(Scene(store, request_lines(2))) == totals.Attempts(0, 0, 0, 0, 0)


def test_what_was_not_sent_is_no_request(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    end(scene, Outcome.NOT_SENT)
    end(scene, Outcome.REFUSED, kind="rate_limited")
    end(scene, Outcome.AMBIGUOUS)
    scene.answer(chat_body())

    assert attempts(scene) == totals.Attempts(requests=3, retries=2, rate_limited=1, ambiguous=1, at_risk=100)


def test_risk_that_nobody_can_price_is_unknown_not_zero(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    end(scene, Outcome.AMBIGUOUS, reserved=None)

    assert attempts(scene).at_risk is None


def test_spent_counts_answers_and_what_may_have_been_charged(store: Store) -> None:
    scene = Scene(store, request_lines(5))
    scene.answer(chat_body(), cost=7)
    assert spent(scene) == 7
    end(scene, Outcome.AMBIGUOUS, reserved=1000)
    assert spent(scene) == 1007
    end(scene, Outcome.REFUSED, reserved=50_000)
    end(scene, Outcome.NOT_SENT, reserved=50_000)
    assert spent(scene) == 1007
    scene.answer(chat_body(), cost=None)
    assert spent(scene) == 1107


def test_an_ambiguous_call_with_a_body_is_counted_once(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    task = scene.calls()[0].task_id
    [call] = scene.claim(task, reserved=30)
    scene.settle(
        settlement(call, task, TaskState.READY, outcome=Outcome.AMBIGUOUS, answer=answer_of(b"{", None, None))
    )

    assert spent(scene) == 30


def test_a_200_that_says_it_was_refused_costs_nothing(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    task = scene.calls()[0].task_id
    [call] = scene.claim(task, reserved=30)
    one = settlement(call, task, TaskState.READY, answer=answer_of(b'{"error":{}}', None, None))
    scene.settle(replace(one, kind="rate_limited"))

    assert spent(scene) == 0


def test_an_answer_that_was_retried_stays_spent(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    scene.answer(chat_body(), cost=7, reason="length")
    with store.write() as connection:
        tasks.retry(connection, run_id=scene.run.id, series_id=scene.tenure.series_id, accepted=["stop"])
    scene.answer(chat_body(), cost=8)

    assert spent(scene) == 15


def test_another_run_spends_for_itself(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    scene.answer(chat_body(), cost=7)
    scene.new_run(request_lines(1))

    assert spent(scene) == 0


def test_what_is_left_counts_every_state_on_the_way(store: Store) -> None:
    scene = Scene(store, [*request_lines(4), b"bad"])
    assert unfinished(scene) == 4
    scene.expand()
    assert unfinished(scene) == 4
    scene.claim(scene.calls()[0].task_id)
    assert unfinished(scene) == 4
    scene.answer(chat_body())
    assert unfinished(scene) == 3
    scene.fail({"code": "x"})
    assert unfinished(scene) == 2


def test_by_state_and_held(store: Store) -> None:
    scene = Scene(store, request_lines(4))
    scene.expand()
    scene.answer(chat_body())
    end(scene, Outcome.AMBIGUOUS, to=TaskState.HELD)
    with store.read() as connection:
        assert totals.by_state(connection, scene.run.id) == {"answered": 1, "held": 1, "ready": 2}
        assert totals.held(connection, scene.run.id) == 1


def test_the_commonest_errors_come_first_and_success_is_none(store: Store) -> None:
    scene = Scene(store, [request_line(f"r{n}", str(n)) for n in range(3)])
    for status in (503, 503, 429):
        task = scene.calls()[0].task_id
        [call] = scene.claim(task)
        scene.settle(replace(settlement(call, task, TaskState.READY), status=status, code=f"c{status}"))
    scene.answer(chat_body())
    with store.read() as connection:
        assert totals.commonest_errors(connection, scene.run.id) == [("c503", 503, 2), ("c429", 429, 1)]
        assert totals.commonest_errors(connection, scene.run.id, limit=1) == [("c503", 503, 2)]


def answer_all(scene: Scene) -> None:
    """Answer every task that is ready, each by a call of its own, in one transaction."""
    scene.expand()
    found = [call.task_id for call in scene.calls()]
    calls = scene.claim(*found)
    ended = zip(calls, found, strict=True)
    scene.settle(
        *(
            settlement(call, task, TaskState.ANSWERED, answer=answer_of(chat_body(), None, 1))
            for call, task in ended
        )
    )


def steps(scene: Scene, look: Callable[[Connection, int], object]) -> int:
    """How many steps SQLite takes for it."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    with scene.store.read() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.set_progress_handler(count, 1)
        try:
            look(connection, scene.run.id)
        finally:
            driver.set_progress_handler(None, 0)
    return taken


@pytest.mark.parametrize(
    "look",
    [
        totals.unfinished,
        totals.held,
        totals.commonest_errors,
        lambda connection, run_id: list(rows.open_records(connection, run_id)),
    ],
    ids=["unfinished", "held", "commonest errors", "open records"],
)
def test_what_is_left_is_told_without_a_look_at_what_is_done(
    store: Store, look: Callable[[Connection, int], object]
) -> None:
    scene = Scene(store, request_lines(10))
    answer_all(scene)
    few = steps(scene, look)
    # Another run of the same series, with other questions: its ten times as many answers must not be read.
    scene.new_run(request_lines(100, seed=2))
    answer_all(scene)

    assert few < 200
    assert steps(scene, look) == few


def test_what_is_left_counts_no_blank_and_no_bad_line(store: Store) -> None:
    lines = request_lines(6)
    scene = Scene(store, [lines[0], b"", lines[1], b"bad", b"", *lines[2:], b"bad", b""])

    assert unfinished(scene) == 6
    for expanded in range(1, 7):
        with store.write() as connection:
            series.fence(connection, scene.tenure)
            made = tasks.expand(
                connection,
                run_id=scene.run.id,
                series_id=scene.tenure.series_id,
                limit=2 if expanded == 1 else 1,
            )
        assert made is not None
        assert unfinished(scene) == 6
    scene.expand()
    assert unfinished(scene) == 6


def test_what_is_left_counts_the_lines_of_an_input_without_blanks(store: Store) -> None:
    scene = Scene(store, [b"bad", *request_lines(3), b"bad", request_line("last", "another")])
    with store.write() as connection:
        tasks.expand(connection, run_id=scene.run.id, series_id=scene.tenure.series_id, limit=3)

    assert unfinished(scene) == 4


def test_a_run_without_rows_has_nothing_left(store: Store) -> None:
    assert unfinished(Scene(store, [b""])) == 0


def test_a_call_under_way_is_no_request_yet(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    scene.answer(chat_body())
    scene.claim(scene.calls()[0].task_id)

    assert attempts(scene) == totals.Attempts(1, 0, 0, 0, 0)


def test_a_try_that_was_never_sent_is_no_retry(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    end(scene, Outcome.REFUSED)
    end(scene, Outcome.NOT_SENT)
    assert attempts(scene) == totals.Attempts(1, 0, 0, 0, 0)
    scene.claim(scene.calls()[0].task_id)
    assert attempts(scene) == totals.Attempts(1, 0, 0, 0, 0)


def test_a_failure_after_a_failure_is_a_retry(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    end(scene, Outcome.REFUSED)
    scene.fail({"code": "x"})

    assert attempts(scene) == totals.Attempts(2, 1, 0, 0, 0)


def test_a_packed_call_is_one_request_one_refusal_one_risk_and_one_retry(store: Store) -> None:
    scene = Scene(store, request_lines(3))
    found = [call.task_id for call in scene.calls()]

    def pack(to: TaskState, outcome: Outcome, kind: str) -> None:
        with store.write() as connection:
            [call] = tasks.claim(connection, [Claim(scene.run.id, scene.tenure.epoch, tuple(found), 100)])
        scene.settle(*(replace(settlement(call, one, to, outcome=outcome), kind=kind) for one in found))

    pack(TaskState.READY, Outcome.REFUSED, "rate_limited")
    pack(TaskState.READY, Outcome.AMBIGUOUS, "ambiguous")
    assert attempts(scene) == totals.Attempts(requests=2, retries=1, rate_limited=1, ambiguous=1, at_risk=100)
    pack(TaskState.ANSWERED, Outcome.OK, "answered")
    assert attempts(scene) == totals.Attempts(requests=3, retries=2, rate_limited=1, ambiguous=1, at_risk=100)
    assert spent(scene) == 100


def test_tries_of_a_later_run_are_its_own(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    first = scene.run.id
    scene.fail({"code": "x"})
    scene.new_run([*request_lines(1), b""])
    scene.answer(chat_body())

    assert attempts(scene) == totals.Attempts(1, 0, 0, 0, 0)
    with store.read() as connection:
        assert totals.attempts(connection, first) == totals.Attempts(1, 0, 0, 0, 0)
        assert totals.commonest_errors(connection, first) == [("", 409, 1)]
        assert totals.commonest_errors(connection, scene.run.id) == []


def left_in(scene: Scene, batch_id: int) -> list[batches.Member]:
    with scene.store.read() as connection:
        return batches.left(connection, batch_id, after_call=0, limit=100)


def test_what_is_out_in_a_batch_is_no_request_yet_and_not_finished(store: Store) -> None:
    scene = Scene(store, request_lines(4))
    scene.expand()
    batch_id = scene.plan(1, 2, 3)
    assert attempts(scene) == totals.Attempts(0, 0, 0, 0, 0)
    assert (unfinished(scene), spent(scene)) == (4, 0)
    with store.read() as connection:
        assert totals.by_state(connection, scene.run.id) == {"batched": 3, "ready": 1}
        assert totals.out_in_batches(connection, scene.run.id) == (1, 3)

    one, two, three = left_in(scene, batch_id)
    paid = answer_of(chat_body(), cost=30)
    scene.settle(settlement(one.call_id, 1, TaskState.ANSWERED, answer=paid))
    scene.settle(settlement(two.call_id, 2, TaskState.READY, outcome=Outcome.AMBIGUOUS))
    assert attempts(scene) == totals.Attempts(2, 0, 0, 1, 100)
    assert (unfinished(scene), spent(scene)) == (3, 130)
    scene.settle(settlement(three.call_id, 3, TaskState.ANSWERED, answer=replace(paid, cost=None)))
    assert spent(scene) == 230
    with store.write() as connection:
        batches.end(connection, [(batch_id, "collected")])
        assert totals.out_in_batches(connection, scene.run.id) == (0, 0)


def test_a_line_that_goes_into_a_further_batch_is_a_retry_once_that_is_settled(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    scene.expand()
    [one] = left_in(scene, scene.plan(1))
    scene.settle(settlement(one.call_id, 1, TaskState.READY, outcome=Outcome.REFUSED, attempts=0))
    assert attempts(scene) == totals.Attempts(1, 0, 0, 0, 0)
    [one] = left_in(scene, scene.plan(1))
    assert attempts(scene) == totals.Attempts(1, 0, 0, 0, 0)
    scene.settle(settlement(one.call_id, 1, TaskState.ANSWERED, answer=answer_of(chat_body())))
    assert attempts(scene) == totals.Attempts(2, 1, 0, 0, 0)


def test_a_line_that_was_never_run_is_no_request_and_the_next_no_retry(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    scene.expand()
    [one, two] = left_in(scene, scene.plan(1, 2))
    for member in (one, two):
        ended = settlement(member.call_id, member.task_id, TaskState.READY, attempts=0)
        scene.settle(replace(ended, kind=Kind.NOT_RUN.value, status=None, code="batch_expired"))
    assert attempts(scene) == totals.Attempts(0, 0, 0, 0, 0)
    [one, two] = left_in(scene, scene.plan(1, 2))
    scene.settle(settlement(one.call_id, one.task_id, TaskState.ANSWERED, answer=answer_of(chat_body())))
    scene.settle(settlement(two.call_id, two.task_id, TaskState.READY, outcome=Outcome.AMBIGUOUS))
    assert attempts(scene) == totals.Attempts(2, 0, 0, 1, 100)
    [two] = left_in(scene, scene.plan(2))
    scene.settle(settlement(two.call_id, two.task_id, TaskState.ANSWERED, answer=answer_of(chat_body())))
    assert attempts(scene) == totals.Attempts(3, 1, 0, 1, 100)


def test_a_dissolved_batch_was_no_request(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    scene.expand()
    batch_id = scene.plan(1, 2)
    with store.write() as connection:
        batches.dissolve(connection, [batch_id])
        assert not totals.has_called(connection, scene.run.id)
    assert attempts(scene) == totals.Attempts(0, 0, 0, 0, 0)
    assert unfinished(scene) == 2


def test_rows_that_wait_for_another_runs_batch_are_not_finished(store: Store) -> None:
    scene = Scene(store, request_lines(3))
    scene.expand()
    scene.plan(1, 2)
    scene.new_run(request_lines(2))
    assert unfinished(scene) == 2
    scene.expand()
    assert unfinished(scene) == 2
    with store.read() as connection:
        assert totals.out_in_batches(connection, scene.run.id) == (0, 0)
