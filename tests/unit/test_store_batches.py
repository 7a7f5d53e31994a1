"""Batches: planned with their tasks, kept through their submission, ended when every task is settled, or dissolved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from scene import IDENTITY, Scene, answer_of, chat_body, request_line, request_lines, settlement
from sqlalchemy import Connection

from runner.errors import Fenced, StoreUnusable
from runner.model import Outcome, RunState, TaskState, Usage
from runner.remote import Failure, RemoteBatch
from runner.store import batches, runs, series, tasks
from runner.store.batches import Kept, Member, NewLine
from runner.store.clock import now
from runner.store.database import Store
from runner.store.writer import GroupWriter
from runner.submission import Stage, Submission

ALL = 10**6


@pytest.fixture
def scene(store: Store) -> Scene:
    made = Scene(store, request_lines(5))
    made.expand()
    return made


def ready(scene: Scene) -> list[int]:
    with scene.store.read() as connection:
        found = batches.next_ready(
            connection, scene.run.id, after=(0, 0), upto=now(), limit=ALL, max_bytes=10**9
        )
    return [one.task_id for one in found]


def write(scene: Scene, verb: Callable[..., object], *items: object) -> object:
    with scene.store.write() as connection:
        series.fence(connection, scene.tenure)
        return verb(connection, items)


def get(scene: Scene, batch_id: int) -> Kept:
    with scene.store.read() as connection:
        return batches.get(connection, batch_id)


def left(scene: Scene, batch_id: int, *, after_call: int = 0, limit: int = ALL) -> list[Member]:
    with scene.store.read() as connection:
        return batches.left(connection, batch_id, after_call=after_call, limit=limit)


def keys(scene: Scene) -> list[tuple[bytes, int]]:
    """The keys of the tasks, in the order of their numbers."""
    return [(one[0], one[1]) for one in scene.query("SELECT hash, occurrence FROM task ORDER BY id")]


def answer(scene: Scene, member: Member, *, tier: str | None = "batch") -> None:
    paid = replace(answer_of(chat_body(), Usage(10, 0, 0, 5, 0, 15), 7), tier=tier)
    scene.settle(
        settlement(member.call_id, member.task_id, TaskState.ANSWERED, finish_reason="stop", answer=paid)
    )


def send_back(scene: Scene, member: Member, to: TaskState = TaskState.READY) -> None:
    scene.settle(
        settlement(
            member.call_id, member.task_id, to, outcome=Outcome.REFUSED, attempts=0, due_at=now(), error="{}"
        )
    )


# --- plan ---------------------------------------------------------------------------------------------


def test_a_plan_takes_its_tasks_and_numbers_their_calls_in_the_order_of_the_lines(scene: Scene) -> None:
    one, two, three, *_ = ready(scene)
    batch_id = scene.plan(three, one, two, reserved=77)

    kept = get(scene, batch_id)
    first = kept.first_call
    assert scene.query("SELECT id, call_id, state FROM task WHERE call_id IS NOT NULL ORDER BY call_id") == [
        (three, first, "batched"),
        (one, first + 1, "batched"),
        (two, first + 2, "batched"),
    ]
    assert scene.query("SELECT id, run_id, epoch, reserved, batch_id FROM call ORDER BY id") == [
        (first + n, scene.run.id, scene.tenure.epoch, 77, batch_id) for n in range(3)
    ]
    assert (kept.run_name, kept.series_id, kept.account) == (
        scene.run.name,
        scene.tenure.series_id,
        IDENTITY.account,
    )
    assert (kept.lines, kept.size, kept.tokens, kept.submission.stage) == (3, 1000, 500, Stage.PLANNED)
    assert (kept.seen, kept.polls, kept.submitted_at, kept.ended_at, kept.result) == (
        None,
        0,
        None,
        None,
        None,
    )
    assert [one.task_id for one in scene.calls()] == ready(scene)
    assert len(ready(scene)) == 2


def test_many_shards_are_planned_in_one_transaction_or_none(scene: Scene) -> None:
    one, two, three, *_ = ready(scene)
    batch_id = scene.plan(one)
    kept = get(scene, batch_id)
    before = scene.dump()
    with scene.store.read() as connection:
        new = batches.NewBatch(
            scene.run.id, kept.series_id, scene.tenure.epoch, "a", "chat", "m", 1, 1, 1, Submission("s", "h")
        )
        assert batches.out(connection, kept.series_id) == [kept]

    with pytest.raises(StoreUnusable, match="refused to plan a batch: 1 of 1 tasks"):
        write(scene, batches.plan, (new, [NewLine(two, 1)]), (new, [NewLine(one, 1)]))
    assert scene.dump() == before
    made = write(scene, batches.plan, (new, [NewLine(two, None)]), (new, [NewLine(three, 1)]))
    with scene.store.read() as connection:
        assert [one.id for one in batches.out(connection, kept.series_id)] == [batch_id, *made]  # type: ignore[misc]
        assert [one.id for one in batches.of_run(connection, scene.run.id)] == [batch_id, *made]  # type: ignore[misc]


def test_a_task_of_another_run_is_not_planned(scene: Scene) -> None:
    task = ready(scene)[0]
    other = scene.new_run(request_lines(1))
    with pytest.raises(StoreUnusable, match="refused to plan"):
        scene.plan(task, run=other)


def test_ready_tasks_are_read_page_by_page_and_later_ones_wait(scene: Scene) -> None:
    first = ready(scene)[0]
    [call] = scene.claim(first)
    scene.settle(settlement(call, first, TaskState.READY, due_at=now() + 10**9, attempts=1))
    seen: list[int] = []
    after, every = (0, 0), keys(scene)
    with scene.store.read() as connection:
        while page := batches.next_ready(
            connection, scene.run.id, after=after, upto=now(), limit=2, max_bytes=10**9
        ):
            seen += [one.task_id for one in page]
            after = (page[-1].due_at, page[-1].row_id)
        size = len(request_line("r0", "question 0"))
        for most, count in ((1, 1), (size, 1), (size + 1, 2)):
            page = batches.next_ready(
                connection, scene.run.id, after=(0, 0), upto=now(), limit=9, max_bytes=most
            )
            assert len(page) == count
        assert (page[0].hash, page[0].occurrence) == every[page[0].task_id - 1]
    assert seen == ready(scene)
    assert len(seen) == 4
    assert first not in seen


# --- the submission and the looks -----------------------------------------------------------------------


def test_the_record_of_the_submission_is_kept_whole(scene: Scene) -> None:
    batch_id = scene.plan(*ready(scene))
    record = get(scene, batch_id).submission._replace(
        stage=Stage.SENDING, attempt=2, file_id="file-1", files=("file-0", "file-1"), t_send=12.5, words="é"
    )
    write(scene, batches.keep, (batch_id, record))
    kept = get(scene, batch_id)
    assert kept.submission == record
    assert kept.submitted_at is None

    submitted = record._replace(stage=Stage.SUBMITTED, batch_id="batch_1")
    write(scene, batches.keep, (batch_id, submitted))
    first = get(scene, batch_id).submitted_at
    assert first is not None
    with scene.store.read() as connection:
        found = batches.find_remote(connection, "batch_1")
        assert found is not None
        assert found.id == batch_id
        assert batches.find_remote(connection, "batch_2") is None

    write(scene, batches.keep, (batch_id, submitted._replace(stage=Stage.PLANNED, batch_id=None)))
    write(scene, batches.keep, (batch_id, submitted._replace(batch_id="batch_2")))
    assert get(scene, batch_id).submitted_at == first


@pytest.mark.parametrize(
    "seen",
    [
        RemoteBatch("batch_1", "validating"),
        RemoteBatch(
            "batch_1",
            "a new word",
            endpoint="/v1/responses",
            input_file_id="f",
            output_file_id="o",
            error_file_id="e",
            created_at=1.5,
            expires_at=2.5,
            failures=(Failure("c", "m", 3, "p"), Failure("d", "n")),
            total=9,
            completed=0,
            failed=None,
            usage=Usage(1, 2, 3, 4, 5, 6),
            model="m",
            metadata={"shard": "s"},
        ),
    ],
)
def test_the_last_look_is_kept_and_looks_are_counted(scene: Scene, seen: RemoteBatch) -> None:
    batch_id = scene.plan(*ready(scene))
    write(scene, batches.see, (batch_id, RemoteBatch("batch_1", "in_progress")), (batch_id, seen))
    kept = get(scene, batch_id)
    assert (kept.seen, kept.polls) == (seen, 2)


def test_the_queue_counts_what_may_be_in_it(scene: Scene) -> None:
    one, two, three, four, _ = ready(scene)
    stages = [Stage.UPLOADED, Stage.SENDING, Stage.SUBMITTED, Stage.UNKNOWN]
    for task, stage in zip((one, two, three, four), stages, strict=True):
        batch_id = scene.plan(task)
        write(scene, batches.keep, (batch_id, get(scene, batch_id).submission._replace(stage=stage)))
    [member] = left(scene, batch_id)
    answer(scene, member)
    write(scene, batches.end, (batch_id, "collected"))
    with scene.store.read() as connection:
        assert batches.enqueued(connection, IDENTITY.account, "m") == 1000
        assert batches.enqueued(connection, IDENTITY.account, "other") == 0
        assert batches.enqueued(connection, "other", "m") == 0


def test_a_batch_that_nobody_took_in_leaves_the_queue_after_a_day(scene: Scene) -> None:
    batch_id = scene.plan(*ready(scene))
    write(scene, batches.keep, (batch_id, get(scene, batch_id).submission._replace(stage=Stage.SUBMITTED)))
    with scene.store.write() as connection:
        assert batches.enqueued(connection, IDENTITY.account, "m") > 0
        connection.exec_driver_sql("UPDATE batch SET submitted_at = submitted_at - ?", (27 * 3_600_000_000,))
        assert batches.enqueued(connection, IDENTITY.account, "m") == 0


def test_what_is_learned_of_a_queue_is_kept_by_account_and_model(scene: Scene) -> None:
    write(scene, batches.learn_queue, ("a", "m", 100), ("a", "n", 5), ("a", "m", 90))
    with scene.store.read() as connection:
        assert batches.queue_limit(connection, "a", "m") == 90
        assert batches.queue_limit(connection, "a", "n") == 5
        assert batches.queue_limit(connection, "b", "m") is None


# --- its lines ------------------------------------------------------------------------------------------


def test_members_are_those_still_out_in_this_batch(scene: Scene) -> None:
    one, two, three, *_ = ready(scene)
    batch_id, other = scene.plan(two, one, reserved=None), scene.plan(three)

    def members(of: int, **page: int) -> list[tuple[bytes, int, Member]]:
        with scene.store.read() as connection:
            return batches.members(connection, of, **{"after_call": 0, "limit": ALL} | page)

    found = members(batch_id)
    first, second, third = keys(scene)[:3]
    assert [(one[:2], one[2].task_id) for one in found] == [(second, two), (first, one)]
    member = found[1][2]
    assert (member.key, member.attempts, member.reserved) == ("r0", 0, None)
    assert [one[:2] for one in members(other)] == [third]
    assert members(batch_id, limit=1) == found[:1]
    assert members(batch_id, after_call=found[0][2].call_id) == found[1:]
    assert left(scene, batch_id) == [one[2] for one in found]
    answer(scene, member)
    assert members(batch_id) == found[:1]
    with scene.store.read() as connection:
        assert batches.worst_case(connection, other) == 100
        assert batches.worst_case(connection, batch_id) == 0
        assert batches.record(connection, member.row_id) == request_line("r0", "question 0")


def test_what_is_left_comes_in_the_order_of_the_lines(scene: Scene) -> None:
    order = [3, 1, 5, 2]
    batch_id = scene.plan(*order)
    scene.plan(4)
    every = left(scene, batch_id)
    assert [one.task_id for one in every] == order
    answer(scene, every[1])
    assert [one.task_id for one in left(scene, batch_id)] == [3, 5, 2]
    assert [one.task_id for one in left(scene, batch_id, limit=2)] == [3, 5]
    assert [one.task_id for one in left(scene, batch_id, after_call=every[2].call_id)] == [2]


def test_what_the_lines_were_written_from_is_told_whatever_became_of_them(scene: Scene) -> None:
    order = [3, 1, 5, 2]
    batch_id = scene.plan(*order)
    expected = [keys(scene)[n - 1] for n in order]

    def content(after_call: int = 0, limit: int = ALL) -> list[tuple[bytes, int]]:
        with scene.store.read() as connection:
            found = batches.content(connection, batch_id, after_call=after_call, limit=limit)
        assert [one.call_id for one in found] == sorted(one.call_id for one in found)
        assert all(b'"question ' in one.record for one in found)
        with scene.store.read() as connection:
            told = batches.keys(connection, batch_id, after_call=after_call, limit=limit)
        assert told == [one[:3] for one in found]
        return [(one.hash, one.occurrence) for one in found]

    assert content() == expected
    members = left(scene, batch_id)
    answer(scene, members[1])
    send_back(scene, members[2])
    scene.claim(5)
    send_back(scene, members[0], TaskState.FAILED)
    assert content() == expected
    assert content(limit=3) == expected[:3]
    assert content(after_call=members[0].call_id, limit=2) == expected[1:3]


# --- the end --------------------------------------------------------------------------------------------


def test_a_batch_ends_when_every_task_is_settled_and_only_once(scene: Scene) -> None:
    batch_id = scene.plan(*ready(scene))
    for member in left(scene, batch_id):
        before = scene.dump()
        with pytest.raises(StoreUnusable, match="tasks that are not settled"):
            write(scene, batches.end, (batch_id, "collected"))
        assert scene.dump() == before
        answer(scene, member)
    write(scene, batches.end, (batch_id, "collected"))

    kept = get(scene, batch_id)
    assert kept.result == "collected"
    assert kept.ended_at is not None
    with scene.store.read() as connection:
        assert batches.out(connection, kept.series_id) == []
    before = scene.dump()
    for verb, item in (
        (batches.end, (batch_id, "failed")),
        (batches.dissolve, batch_id),
        (batches.keep, (batch_id, kept.submission)),
        (batches.see, (batch_id, RemoteBatch("b", "completed"))),
        (batches.end, (batch_id + 1, "failed")),
        (batches.keep, (batch_id + 1, kept.submission)),
    ):
        with pytest.raises(StoreUnusable, match="is not out"):
            write(scene, verb, item)
    assert scene.dump() == before


def test_a_word_that_no_batch_ends_with_is_refused(scene: Scene) -> None:
    batch_id = scene.plan(*ready(scene))
    for member in left(scene, batch_id):
        answer(scene, member)
    with pytest.raises(AssertionError):
        write(scene, batches.end, (batch_id, "done"))


def test_a_dissolved_batch_leaves_nothing_but_its_record(scene: Scene) -> None:
    before = ready(scene)
    batch_id = scene.plan(*before)
    write(scene, batches.dissolve, batch_id)

    assert ready(scene) == before
    assert scene.query("SELECT count(*) FROM call") == [(0,)]
    assert scene.query("SELECT DISTINCT call_id, attempts FROM task") == [(None, 0)]
    assert get(scene, batch_id).result == "dissolved"
    assert left(scene, batch_id) == []


def test_what_is_settled_stays_so_when_the_rest_is_dissolved(scene: Scene) -> None:
    batch_id = scene.plan(*ready(scene))
    first, second, *_ = left(scene, batch_id)
    answer(scene, first)
    send_back(scene, second, TaskState.FAILED)
    write(scene, batches.dissolve, batch_id)

    assert scene.states() == ["answered", "failed", "ready", "ready", "ready"]
    assert scene.query("SELECT id FROM call ORDER BY id") == [(first.call_id,), (second.call_id,)]


def test_the_numbers_of_a_dissolved_batch_say_nothing_of_the_next(scene: Scene) -> None:
    tasks_of = ready(scene)
    gone = scene.plan(*tasks_of)
    write(scene, batches.dissolve, gone)
    batch_id = scene.plan(*tasks_of[::-1])

    assert get(scene, batch_id).first_call == get(scene, gone).first_call
    assert left(scene, gone) == []
    assert len(left(scene, batch_id)) == 5
    with scene.store.read() as connection:
        assert batches.content(connection, gone, after_call=0, limit=ALL) == []
        assert batches.members(connection, gone, after_call=0, limit=ALL) == []
        assert batches.keys(connection, gone, after_call=0, limit=ALL) == []
        assert batches.worst_case(connection, gone) == 0


# --- beside other runs ----------------------------------------------------------------------------------


def waiting(scene: Scene) -> int:
    with scene.store.read() as connection:
        return batches.waiting_elsewhere(connection, scene.run.id, scene.tenure.series_id)


def test_rows_whose_task_is_out_for_another_run_wait_for_it(scene: Scene) -> None:
    first = scene.run
    batch_id = scene.plan(*ready(scene)[:3])
    assert waiting(scene) == 0
    scene.new_run([*request_lines(4), request_line("z", "new")])
    assert waiting(scene) == 0, "no row of it has been looked at"
    scene.expand()
    assert waiting(scene) == 3
    assert scene.query("SELECT run_id, state, count(*) FROM task GROUP BY 1, 2 ORDER BY 1, 2") == [
        (first.id, "batched", 3),
        (first.id, "ready", 1),
        (scene.run.id, "ready", 2),
    ]
    member = left(scene, batch_id)[0]
    answer(scene, member)
    assert waiting(scene) == 2


def test_rows_that_share_a_task_all_wait(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    scene.expand()
    scene.plan(*ready(scene))
    scene.new_run([request_line("a", "question 0"), request_line("b", "question 0")], dedupe=True)
    scene.expand()
    assert waiting(scene) == 2


def test_a_later_run_asks_what_a_batch_of_an_earlier_one_gives_back(scene: Scene) -> None:
    batch_id = scene.plan(*ready(scene))
    second = scene.new_run(request_lines(5))
    scene.expand()
    one, two, three, four, five = left(scene, batch_id)
    answer(scene, one)
    send_back(scene, two)
    send_back(scene, three, TaskState.FAILED)
    send_back(scene, four, TaskState.HELD)
    answer(scene, five)
    write(scene, batches.end, (batch_id, "collected"))
    assert (waiting(scene), ready(scene)) == (0, [])
    scene.expand()
    assert ready(scene) == [two.task_id, three.task_id]
    assert scene.query("SELECT state FROM task WHERE run_id = ? ORDER BY id", second.id) == [
        ("ready",),
        ("ready",),
        ("held",),
    ]


def test_a_later_run_asks_what_a_dissolved_batch_gives_back(scene: Scene) -> None:
    batch_id = scene.plan(*ready(scene))
    scene.new_run(request_lines(2))
    scene.expand()
    write(scene, batches.dissolve, batch_id)
    scene.expand()
    assert len(ready(scene)) == 2


def test_a_batch_that_gives_nothing_back_sends_no_run_through_its_rows_again(scene: Scene) -> None:
    batch_id = scene.plan(*ready(scene))
    scene.new_run(request_lines(5))
    scene.expand()
    for member in left(scene, batch_id):
        answer(scene, member)
    before = scene.query("SELECT id, expanded_to FROM run")
    write(scene, batches.end, (batch_id, "collected"))
    assert scene.query("SELECT id, expanded_to FROM run") == before


def test_earlier_runs_look_again_for_they_may_be_taken_up_again_and_finished_ones_do_not(
    scene: Scene,
) -> None:
    earlier = scene.run
    finished = scene.new_run(request_lines(1))
    scene.expand()
    with scene.store.write() as connection:
        runs.move(connection, finished.id, RunState.FINISHED)
    scene.new_run(request_lines(5))
    scene.expand()
    batch_id = scene.plan(*ready(scene))
    before = dict(scene.query("SELECT id, expanded_to FROM run"))
    write(scene, batches.dissolve, batch_id)
    assert dict(scene.query("SELECT id, expanded_to FROM run")) == before | {earlier.id: 0}


# --- crashes and takeovers ------------------------------------------------------------------------------


def test_a_crash_leaves_batches_as_they_are(scene: Scene) -> None:
    scene.plan(*ready(scene)[:3])
    scene.claim(*ready(scene)[:1])
    with scene.store.write() as connection:
        assert (
            tasks.recover(connection, series_id=scene.tenure.series_id, to=TaskState.READY, error=None) == 1
        )
    assert scene.states() == ["batched"] * 3 + ["ready"] * 2
    assert scene.query("SELECT count(*) FROM attempt") == [(1,)]


@pytest.mark.parametrize("moved", ["call", "task"])
def test_a_line_is_settled_once_and_by_its_own_call(scene: Scene, moved: str) -> None:
    batch_id = scene.plan(*ready(scene))
    one, two, *_ = left(scene, batch_id)
    answer(scene, one)
    before = scene.dump()
    wrong = one if moved == "task" else one._replace(task_id=two.task_id)
    with pytest.raises(StoreUnusable, match="refused to settle"):
        answer(scene, wrong)
    assert scene.dump() == before


VERBS: dict[str, Callable[[int], tuple[Callable[[Connection, list[object]], object], object]]] = {
    "keep": lambda batch_id: (batches.keep, (batch_id, Submission("s", "h"))),
    "see": lambda batch_id: (batches.see, (batch_id, RemoteBatch("b", "x"))),
    "dissolve": lambda batch_id: (batches.dissolve, batch_id),
    "learn": lambda batch_id: (batches.learn_queue, ("a", "m", 1)),
    "end": lambda batch_id: (batches.end, (batch_id, "failed")),
}


@pytest.mark.parametrize("name", VERBS)
def test_who_was_replaced_writes_nothing_of_a_batch(scene: Scene, name: str) -> None:
    batch_id = scene.plan(ready(scene)[0])
    if name == "end":
        answer(scene, left(scene, batch_id)[0])
    verb, item = VERBS[name](batch_id)
    before = scene.dump()

    async def once() -> None:
        writer = GroupWriter(scene.store, scene.tenure, lambda: None)
        try:
            await writer.submit(verb, [item])
        finally:
            await writer.close()

    with scene.store.write() as connection:
        mine = scene.tenure
        series.take(connection, IDENTITY)
    with pytest.raises(Fenced):
        asyncio.run(once())
    assert scene.dump() == before
    with scene.store.write() as connection:
        scene.tenure = series.take(connection, IDENTITY)
    assert scene.tenure.epoch == mine.epoch + 2
    asyncio.run(once())
    assert scene.dump() != before


def test_a_damaged_record_is_told(scene: Scene) -> None:
    batch_id = scene.plan(ready(scene)[0])
    with scene.store.write() as connection:
        connection.exec_driver_sql("UPDATE batch SET submission = '{'")
    with pytest.raises(StoreUnusable, match=f"batch {batch_id} of run {scene.run.name} is damaged"):
        get(scene, batch_id)


def test_what_batches_are_asked_is_found_by_an_index(scene: Scene) -> None:
    """No look at a batch reads the tasks of the others."""
    plans: list[str] = []
    with scene.store.read() as connection:

        def explain(statement: str) -> None:
            if statement.lstrip().startswith("SELECT"):
                statements.append(statement)

        statements: list[str] = []
        driver = connection.connection.driver_connection
        driver.set_trace_callback(explain)  # type: ignore[union-attr]
        batches.left(connection, 1, after_call=0, limit=1)
        batches.content(connection, 1, after_call=0, limit=1)
        batches.members(connection, 1, after_call=0, limit=1)
        batches.keys(connection, 1, after_call=0, limit=1)
        batches.worst_case(connection, 1)
        batches.out(connection, 1)
        batches.find_remote(connection, "b")
        driver.set_trace_callback(None)  # type: ignore[union-attr]
        for statement in statements:
            plans += [
                str(one[3])
                for one in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement.replace(':', '::')}")
            ]
    tables = ("task", "call", "row", "attempt", "batch")
    assert len(statements) >= 7
    assert [one for one in plans if one.startswith("SCAN") and one.split()[1] in tables] == []
