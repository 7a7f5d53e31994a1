"""Totals: what attempts came to, what was spent, what is left."""

from scene import Scene, answer_of, chat_body, request_line, request_lines, settlement

from runner.model import Outcome, TaskState
from runner.store import tasks, totals
from runner.store.database import Store


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
    scene.settle(settlement(call, task, to, outcome=outcome, error="{}")._replace(kind=kind))


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
    scene.settle(one._replace(kind="rate_limited"))

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
        scene.settle(settlement(call, task, TaskState.READY)._replace(status=status, code=f"c{status}"))
    scene.answer(chat_body())
    with store.read() as connection:
        assert totals.commonest_errors(connection, scene.run.id) == [("c503", 503, 2), ("c429", 429, 1)]
        assert totals.commonest_errors(connection, scene.run.id, limit=1) == [("c503", 503, 2)]
