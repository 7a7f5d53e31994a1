"""Tasks that are numbered one after another are moved together, and come to what each would have come to alone."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scene import Scene, answer_of, request_line, request_lines, settlement

from runner.errors import StoreUnusable
from runner.model import Asked, TaskState
from runner.settle import packed
from runner.store import series, spans, tasks
from runner.store.database import Store
from runner.store.tasks import LEAST_ROWS, Claim

TASKS = 24


@pytest.fixture
def scene(store: Store) -> Scene:
    made = Scene(store, request_lines(TASKS))
    made.expand()
    return made


def claim(scene: Scene, *calls: Sequence[int]) -> list[int]:
    claims = [Claim(scene.run.id, scene.tenure.epoch, tuple(one), 5) for one in calls]
    with scene.store.write() as connection:
        series.fence(connection, scene.tenure)
        return tasks.claim(connection, claims)


def taken(scene: Scene) -> dict[int, int]:
    return dict(scene.query("SELECT id, call_id FROM task WHERE state = 'in_flight'"))


@given(st.lists(st.integers(1, 60), min_size=1, unique=True))
def test_spans_hold_just_the_numbers(numbers: list[int]) -> None:
    found = spans.of(numbers)

    if found:
        assert [one for first, last in found for one in range(first, last + 1)] == numbers
        assert all(before[1] + 1 != after[0] for before, after in itertools.pairwise(found))
    else:
        assert len(numbers) < spans.LEAST * 60


def test_scattered_numbers_are_no_spans() -> None:
    assert spans.of(range(1, 17)) == [(1, 16)]
    assert spans.of([*range(1, 9), *range(11, 19)]) == [(1, 8), (11, 18)]
    assert spans.of(range(1, 17, 2)) == []
    assert spans.of([3]) == []


@pytest.mark.parametrize(
    "calls",
    [
        [range(1, 25)],
        [range(1, 9), range(9, 25)],
        [[*range(1, 9), *range(17, 25)], [9], [10, 12, 14]],
        [range(24, 0, -1)],
        [[1], range(2, 20), [21]],
    ],
)
def test_a_call_takes_its_tasks_and_no_others(scene: Scene, calls: list[Sequence[int]]) -> None:
    numbers = claim(scene, *calls)

    assert taken(scene) == {one: number for number, call in zip(numbers, calls, strict=True) for one in call}


def test_a_span_with_a_task_that_is_taken_is_not_claimed_at_all(scene: Scene) -> None:
    claim(scene, [7])
    before = scene.dump()

    with pytest.raises(StoreUnusable, match="1 of 20 tasks"):
        claim(scene, range(1, 21))
    assert scene.dump() == before


def moved(scene: Scene) -> list[list[tuple[Any, ...]]]:
    return [
        scene.query(
            "SELECT id, state, iif(state = 'ready', 0, due_at), attempts, call_id, answer_id, item, finish_reason,"
            " fault, error FROM task"
        ),
        scene.query("SELECT call_id, task_id, outcome, kind, status, code, request_id FROM attempt"),
    ]


def test_a_span_is_settled_as_its_tasks_would_be_one_by_one(tmp_path: Any) -> None:
    found = []
    for name, together in (("together", True), ("apart", False)):
        with Store.open(f"sqlite:///{tmp_path / name}.db") as store:
            scene = Scene(store, request_lines(TASKS))
            scene.expand()
            [call, alone] = claim(scene, range(3, 20), [22])
            more: dict[str, Any] = {
                "finish_reason": "stop",
                "fault": '{"code": "x"}',
                "attempts": 2,
                "due_at": 9,
            }
            answer = answer_of(b"packed")
            if together:
                settled = [settlement(call, 3, TaskState.ANSWERED, answer=answer, tasks=17, **more)]
            else:
                first = settlement(call, 3, TaskState.ANSWERED, answer=answer, **more)
                rest = [
                    settlement(call, one, TaskState.ANSWERED, item=one - 3, **more) for one in range(4, 20)
                ]
                settled = [first, *rest]
            scene.settle(*settled, settlement(alone, 22, TaskState.READY))
            found.append(moved(scene))

    assert sorted(found[0][1]) == sorted(found[1][1])
    assert found[0][0] == found[1][0]


def test_what_follows_the_first_of_a_packed_call_points_into_its_answer(scene: Scene) -> None:
    [call] = claim(scene, range(1, 11))
    scene.settle(
        settlement(call, 1, TaskState.ANSWERED, answer=answer_of(b"packed"), tasks=4),
        settlement(call, 5, TaskState.READY),
        settlement(call, 6, TaskState.ANSWERED, item=5, tasks=5),
    )

    found = scene.query("SELECT item, answer_id FROM task WHERE state = 'answered' ORDER BY id")
    assert found == [(item, 1) for item in (0, 1, 2, 3, 5, 6, 7, 8, 9)]


def test_a_span_with_a_task_of_another_call_is_not_settled_at_all(scene: Scene) -> None:
    [call, _] = claim(scene, range(1, 11), [11])
    before = scene.dump()

    with pytest.raises(StoreUnusable, match="1 of 11 tasks"):
        scene.settle(settlement(call, 1, TaskState.ANSWERED, answer=answer_of(b"packed"), tasks=11))
    assert scene.dump() == before


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1), st.booleans()), max_size=20))
def test_the_tasks_of_a_packed_call_go_together_where_number_and_attempts_follow(
    steps: list[tuple[int, int, bool]],
) -> None:
    asked, bad, number = [], set(), 0
    for place, (step, attempts, is_bad) in enumerate(steps):
        number += step
        asked.append(Asked(number, number, None, attempts, 1))
        if is_bad:
            bad.add(place)

    found = list(packed.spans(asked, besides=bad))

    assert [place for first, count in found for place in range(first, first + count)] == [
        place for place in range(len(asked)) if place not in bad
    ]
    for first, count in found:
        some = asked[first : first + count]
        assert [one.task_id for one in some] == [some[0].task_id + n for n in range(count)]
        assert len({one.attempts for one in some}) == 1
    for (first, count), (after, _) in itertools.pairwise(found):
        last, following = asked[first + count - 1], asked[after]
        goes_on = (last.task_id + 1, last.attempts) == (following.task_id, following.attempts)
        assert not goes_on or after > first + count


def test_tasks_are_numbered_as_their_rows_are_and_made_in_ever_larger_numbers(store: Store) -> None:
    scene = Scene(store, [request_line(f"r{n}", f"question {n}") for n in range(4 * LEAST_ROWS + 100)])
    made = []
    while True:
        with store.write() as connection:
            found = tasks.expand(connection, run_id=scene.run.id, series_id=scene.tenure.series_id)
        if found is None:
            break
        made.append(found.rows)

    assert made == [LEAST_ROWS, LEAST_ROWS, 2 * LEAST_ROWS, 100]
    assert [one for (one,) in scene.query("SELECT id FROM task ORDER BY row_id")] == list(
        range(1, 4 * LEAST_ROWS + 101)
    )
