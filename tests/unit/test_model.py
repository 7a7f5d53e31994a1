"""The states: what is drawn in model.py's docstring is what its tables say, and what the store's verbs enforce."""

import re

import pytest
from scene import Scene, answer_of, chat_body, request_lines, settlement

from runner import model
from runner.errors import RunnerError
from runner.model import (
    OUTCOME_OF_KIND,
    RUN_TRANSITIONS,
    TASK_TRANSITIONS,
    Kind,
    Outcome,
    Reply,
    RunState,
    TaskState,
    Usage,
)
from runner.store import runs, tasks
from runner.store.database import Store
from runner.sums import RowTotals, Sums


def test_every_state_is_drawn_and_has_its_ways() -> None:
    drawing = model.__doc__ or ""

    for state in (*TaskState, *RunState):
        assert re.search(rf"\b{state.name}\b", drawing)
    assert set(TASK_TRANSITIONS) == set(TaskState)
    assert set(RUN_TRANSITIONS) == set(RunState)
    assert set(OUTCOME_OF_KIND) == set(Kind)


def test_every_state_can_be_reached_from_the_first() -> None:
    for first, ways in ((TaskState.READY, TASK_TRANSITIONS), (RunState.INGESTING, RUN_TRANSITIONS)):
        reached, left = set(), [first]
        while left:
            state = left.pop()
            if state not in reached:
                reached.add(state)
                left.extend(ways[state])  # type: ignore[index]
        assert reached == set(type(first))


def test_only_ambiguous_can_cost_without_an_answer() -> None:
    assert {kind for kind, outcome in OUTCOME_OF_KIND.items() if outcome is Outcome.AMBIGUOUS} == {
        Kind.AMBIGUOUS
    }
    assert {kind for kind, outcome in OUTCOME_OF_KIND.items() if outcome is Outcome.OK} == {Kind.ANSWERED}


def test_the_tables_cannot_be_changed() -> None:
    for table in (TASK_TRANSITIONS, RUN_TRANSITIONS, OUTCOME_OF_KIND):
        with pytest.raises(TypeError):
            table[TaskState.READY] = frozenset()  # type: ignore[index]


RUN_MOVES = [(state, to) for state in RunState for to in RunState]


@pytest.mark.parametrize(("state", "to"), RUN_MOVES, ids=lambda one: one.value)
def test_a_run_moves_as_drawn_and_not_otherwise(store: Store, state: RunState, to: RunState) -> None:
    scene = Scene(store, request_lines(1))
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE run SET state = ?", (state.value,))

    if to in RUN_TRANSITIONS[state]:
        with store.write() as connection:
            runs.move(connection, scene.run.id, to)
        assert scene.query("SELECT state FROM run") == [(to.value,)]
    else:
        with pytest.raises(RunnerError), store.write() as connection:
            runs.move(connection, scene.run.id, to)
        assert scene.query("SELECT state FROM run") == [(state.value,)]


def in_state(store: Store, state: TaskState) -> tuple[Scene, int, int]:
    """A scene whose one task is in a state; its number, and that of its call (0 before the first)."""
    scene = Scene(store, request_lines(1))
    scene.expand()
    if state is TaskState.READY:
        return scene, scene.calls()[0].task_id, 0
    task_id = scene.calls()[0].task_id
    if state is TaskState.BATCHED:
        scene.plan(task_id)
        return scene, task_id, scene.query("SELECT call_id FROM task")[0][0]
    [call_id] = scene.claim(task_id)
    if state is not TaskState.IN_FLIGHT:
        answer = answer_of(chat_body()) if state is TaskState.ANSWERED else None
        scene.settle(settlement(call_id, task_id, state, answer=answer, error='{"code":"x"}'))
    return scene, task_id, call_id


@pytest.mark.parametrize("state", TaskState)
def test_claim_takes_a_ready_task_only(store: Store, state: TaskState) -> None:
    scene, task_id, _ = in_state(store, state)
    before = scene.dump()

    if TaskState.IN_FLIGHT in TASK_TRANSITIONS[state]:
        scene.claim(task_id)
        assert scene.states() == ["in_flight"]
    else:
        with pytest.raises(RunnerError, match="refused to claim"):
            scene.claim(task_id)
        assert scene.dump() == before


@pytest.mark.parametrize("state", TaskState)
def test_plan_takes_a_ready_task_only(store: Store, state: TaskState) -> None:
    scene, task_id, _ = in_state(store, state)
    before = scene.dump()

    if TaskState.BATCHED in TASK_TRANSITIONS[state]:
        scene.plan(task_id)
        assert scene.states() == ["batched"]
    else:
        with pytest.raises(RunnerError, match="refused to plan"):
            scene.plan(task_id)
        assert scene.dump() == before


@pytest.mark.parametrize("to", sorted(TASK_TRANSITIONS[TaskState.IN_FLIGHT]))
@pytest.mark.parametrize("state", TaskState)
def test_settle_ends_a_task_in_flight_or_in_a_batch_only(
    store: Store, state: TaskState, to: TaskState
) -> None:
    scene, task_id, call_id = in_state(store, state)
    before = scene.dump()
    late = settlement(call_id, task_id, to, answer=answer_of(b"late"))

    if to in TASK_TRANSITIONS[state] and state in (TaskState.IN_FLIGHT, TaskState.BATCHED):
        scene.settle(late)
        assert scene.states() == [to.value]
    else:
        with pytest.raises(RunnerError):
            scene.settle(late)
        assert scene.dump() == before


@pytest.mark.parametrize("state", TaskState)
def test_recover_moves_what_is_in_flight_only(store: Store, state: TaskState) -> None:
    scene, _, _ = in_state(store, state)
    before = scene.dump()
    with store.write() as connection:
        found = tasks.recover(connection, series_id=scene.tenure.series_id, to=TaskState.READY, error=None)

    assert found == (state is TaskState.IN_FLIGHT)
    assert (scene.dump() == before) == (state is not TaskState.IN_FLIGHT)


@pytest.mark.parametrize("state", TaskState)
def test_retry_takes_failed_and_held_tasks_only(store: Store, state: TaskState) -> None:
    scene, _, _ = in_state(store, state)
    before = scene.dump()
    with store.write() as connection:
        again = tasks.retry(
            connection, run_id=scene.run.id, series_id=scene.tenure.series_id, accepted=["stop"]
        )

    # `in_state` answers without a finish reason: an accepted answer is not asked again.
    assert again == (state in (TaskState.FAILED, TaskState.HELD))
    assert (scene.dump() == before) == (not again)


@pytest.mark.parametrize("state", TaskState)
def test_a_further_run_takes_over_what_waits_and_leaves_what_is_answered_or_under_way(
    store: Store, state: TaskState
) -> None:
    scene, _, _ = in_state(store, state)
    first = scene.run.id
    second = scene.new_run(request_lines(1)).id
    scene.expand()

    keeps = state in (TaskState.ANSWERED, TaskState.IN_FLIGHT, TaskState.BATCHED)
    assert scene.query("SELECT run_id FROM task") == [(first if keeps else second,)]
    expected = TaskState.READY if state is TaskState.FAILED else state
    assert scene.states() == [expected.value]


def test_a_reply_knows_its_request_by_either_header() -> None:
    assert Reply(200, {"x-request-id": "a", "apim-request-id": "b"}).request_id == "a"
    assert Reply(200, {"apim-request-id": "b"}).request_id == "b"
    assert Reply(None).request_id is None


def test_sums_keep_the_unknown_apart_from_zero() -> None:
    sums = Sums()
    sums.add(Usage(1, 0, 0, 2, 0, 3), 5)
    sums.add(None, None)
    sums.add(Usage(10, 4, 1, 20, 7, 30), 0)

    assert (sums.rows, sums.priced, sums.unpriced, sums.cost) == (3, 2, 1, 5)
    assert (sums.input, sums.cached_input, sums.cache_write) == (11, 4, 1)
    assert (sums.output, sums.reasoning, sums.total) == (22, 7, 33)


def test_totals_do_not_share_their_sums() -> None:
    one, other = RowTotals(), RowTotals()
    one.paid.add(None, 1)
    one.by_model["m"] = Sums()

    assert other.paid.rows == 0
    assert not other.by_model
