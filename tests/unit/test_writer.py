"""Group commit: in order, all of a group or none, and nobody who waits is forgotten."""

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from scene import Scene, answer_of, chat_body, request_lines, settlement
from sqlalchemy import Connection

from runner.errors import Fenced, StoreUnusable
from runner.model import TaskState
from runner.store import series, tasks
from runner.store.database import Store
from runner.store.tasks import Claim
from runner.store.writer import GROUP, GROUP_BYTES, LARGE, MANY, GroupWriter

LIMIT = 20.0


@pytest.fixture
def scene(store: Store) -> Scene:
    made = Scene(store, request_lines(3))
    made.expand()
    with store.write() as connection:
        connection.exec_driver_sql("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT, tx INTEGER)")
    return made


class Notes:
    """A verb that notes its items, and what it has been called with."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []

    def write(self, connection: Connection, items: Sequence[str]) -> list[str]:
        self.groups.append(list(items))
        for item in items:
            connection.exec_driver_sql("INSERT INTO note (text, tx) VALUES (?, ?)", (item, len(self.groups)))
        return [item.upper() for item in items]


async def submit(writer: GroupWriter, verb: Any, item: object) -> Any:
    """Hand in one item; what the verb says of it."""
    said = await writer.submit(verb, [item])
    return said[0] if said else None


def writing(
    scene: Scene, work: Callable[[GroupWriter], Awaitable[Any]], on_full: Callable[[], None] = lambda: None
) -> Any:
    async def once() -> Any:
        writer = GroupWriter(scene.store, scene.tenure, on_full)
        try:
            return await asyncio.wait_for(work(writer), LIMIT)
        finally:
            await asyncio.wait_for(writer.close(), LIMIT)

    return asyncio.run(once())


def noted(scene: Scene) -> list[str]:
    return [text for (text,) in scene.query("SELECT text FROM note ORDER BY id")]


def test_a_write_is_on_disk_when_it_returns(scene: Scene) -> None:
    async def work(writer: GroupWriter) -> None:
        assert await submit(writer, Notes().write, "a") == "A"
        assert noted(scene) == ["a"]

    writing(scene, work)


def test_writes_keep_their_order_and_get_their_own_results(scene: Scene) -> None:
    notes = Notes()

    async def work(writer: GroupWriter) -> list[str]:
        return await asyncio.gather(*(submit(writer, notes.write, f"n{n}") for n in range(1000)))

    assert writing(scene, work) == [f"N{n}" for n in range(1000)]
    assert noted(scene) == [f"n{n}" for n in range(1000)]
    assert max(map(len, notes.groups)) <= GROUP


def test_what_comes_during_a_commit_goes_together_with_the_next(scene: Scene) -> None:
    notes, begun, go_on = Notes(), threading.Event(), threading.Event()

    def slow(connection: Connection, items: Sequence[str]) -> None:
        begun.set()
        assert go_on.wait(LIMIT)

    async def work(writer: GroupWriter) -> None:
        first = asyncio.create_task(submit(writer, slow, "first"))
        assert await asyncio.to_thread(begun.wait, LIMIT)
        others = [asyncio.create_task(submit(writer, notes.write, f"n{n}")) for n in range(50)]
        await asyncio.sleep(0)
        assert not any(one.done() for one in others)
        go_on.set()
        await asyncio.gather(first, *others)

    writing(scene, work)
    assert [len(group) for group in notes.groups] == [50]


def test_two_verbs_of_a_group_do_not_mix_their_items(scene: Scene) -> None:
    one, other = Notes(), Notes()

    async def work(writer: GroupWriter) -> list[str]:
        return await asyncio.gather(
            *(submit(writer, (one if n % 3 else other).write, f"n{n}") for n in range(90))
        )

    assert writing(scene, work) == [f"N{n}" for n in range(90)]


def test_a_write_that_fails_costs_the_others_of_its_group_nothing(scene: Scene) -> None:
    begun, go_on, notes = threading.Event(), threading.Event(), Notes()

    def slow(connection: Connection, items: Sequence[str]) -> None:
        begun.set()
        go_on.wait(LIMIT)

    def refuse(connection: Connection, items: Sequence[str]) -> None:
        raise StoreUnusable("no")

    async def work(writer: GroupWriter) -> list[Any]:
        first = asyncio.create_task(submit(writer, slow, ""))
        await asyncio.to_thread(begun.wait, LIMIT)
        group = [asyncio.create_task(submit(writer, notes.write, str(n))) for n in range(5)]
        group.append(asyncio.create_task(submit(writer, refuse, "x")))
        await asyncio.sleep(0)
        go_on.set()
        await first
        ended = await asyncio.gather(*group, return_exceptions=True)
        # One bad group is not the end: the next is written.
        await submit(writer, notes.write, "after")
        return ended

    *others, bad = writing(scene, work)
    assert others == ["0", "1", "2", "3", "4"]
    assert isinstance(bad, StoreUnusable)
    assert noted(scene) == ["0", "1", "2", "3", "4", "after"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("bug"),
        OverflowError("too large"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"),
    ],
)
def test_what_nobody_foresaw_reaches_every_waiter_then_and_later(scene: Scene, error: Exception) -> None:
    def broken(connection: Connection, items: Sequence[str]) -> None:
        raise error

    async def work(writer: GroupWriter) -> None:
        for _ in range(3):
            with pytest.raises(StoreUnusable, match="writer failed"):
                await asyncio.wait_for(submit(writer, broken, "x"), 5)

    writing(scene, work)
    assert noted(scene) == []


def test_a_cancelled_waiter_is_not_the_end_of_its_write(scene: Scene) -> None:
    begun, go_on, notes = threading.Event(), threading.Event(), Notes()

    def slow(connection: Connection, items: Sequence[str]) -> None:
        begun.set()
        go_on.wait(LIMIT)

    async def work(writer: GroupWriter) -> None:
        first = asyncio.create_task(submit(writer, slow, ""))
        await asyncio.to_thread(begun.wait, LIMIT)
        given_up = asyncio.create_task(submit(writer, notes.write, "paid"))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        go_on.set()
        await first

    writing(scene, work)
    assert noted(scene) == ["paid"]


def test_closing_writes_what_was_handed_in(scene: Scene) -> None:
    notes = Notes()

    async def once() -> None:
        writer = GroupWriter(scene.store, scene.tenure, lambda: None)
        waiting = [asyncio.create_task(submit(writer, notes.write, str(n))) for n in range(600)]
        await asyncio.sleep(0)
        await writer.close()
        await asyncio.gather(*waiting)

    asyncio.run(once())
    assert len(noted(scene)) == 600


def full(times: int) -> Callable[[Connection, Sequence[str]], list[str]]:
    """A verb that meets a full disk so many times."""
    left, notes = [times], Notes()

    def write(connection: Connection, items: Sequence[str]) -> list[str]:
        if left[0]:
            left[0] -= 1
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error
        return notes.write(connection, items)

    return write


def test_a_full_disk_releases_the_ballast_and_the_write_is_done(scene: Scene) -> None:
    told: list[str] = []
    scene.store.keep_ballast("ab" * 20)

    async def work(writer: GroupWriter) -> None:
        await submit(writer, full(1), "paid")

    writing(scene, work, on_full=lambda: told.append("full"))
    assert noted(scene) == ["paid"]
    assert told == ["full"]
    assert not scene.store.release_ballast()


def test_a_disk_that_is_still_full_then_is_told(scene: Scene) -> None:
    told: list[str] = []
    scene.store.keep_ballast("ab" * 20)

    async def work(writer: GroupWriter) -> None:
        with pytest.raises(StoreUnusable, match="is full"):
            await submit(writer, full(2), "a")
        with pytest.raises(StoreUnusable, match="is full"):
            await submit(writer, full(1), "b")
        await submit(writer, full(0), "c")

    writing(scene, work, on_full=lambda: told.append("full"))
    assert noted(scene) == ["c"]
    assert told == ["full"]


def test_a_lost_tenure_writes_nothing(scene: Scene) -> None:
    async def work(writer: GroupWriter) -> None:
        await submit(writer, Notes().write, "mine")
        with scene.store.write() as connection:
            series.take(connection, series.identity_of(connection, scene.tenure.series_id))
        with pytest.raises(Fenced):
            await submit(writer, Notes().write, "no longer mine")

    writing(scene, work)
    assert noted(scene) == ["mine"]


def test_items_handed_in_together_are_written_together_and_answered_in_order(scene: Scene) -> None:
    notes = Notes()

    async def work(writer: GroupWriter) -> list[Sequence[str]]:
        return await asyncio.gather(
            writer.submit(notes.write, ["a", "b"]),
            writer.submit(notes.write, ["c"]),
            writer.submit(notes.write, []),
        )

    assert writing(scene, work) == [["A", "B"], ["C"], []]
    assert noted(scene) == ["a", "b", "c"]


def test_claims_and_answers_of_many_calls(scene: Scene) -> None:
    ids = [call.task_id for call in scene.calls()]

    async def one(writer: GroupWriter, task: int) -> None:
        call = await submit(writer, tasks.claim, Claim(scene.run.id, scene.tenure.epoch, (task,), 1))
        await submit(
            writer,
            tasks.settle,
            settlement(call, task, TaskState.ANSWERED, answer=answer_of(chat_body(str(task)))),
        )

    async def work(writer: GroupWriter) -> None:
        await asyncio.gather(*(one(writer, task) for task in ids))

    writing(scene, work)
    found = scene.query("SELECT task.id, answer.body FROM task JOIN answer ON answer.id = task.answer_id")
    assert dict(found) == {task: chat_body(str(task)) for task in ids}


@pytest.mark.parametrize(
    ("count", "size", "at_once"),
    [(MANY, 0, True), (MANY - 1, 0, False), (1, LARGE, True), (1, LARGE - 1, False)],
)
def test_a_large_write_waits_for_no_other(scene: Scene, count: int, size: int, at_once: bool) -> None:
    begun, seen = threading.Event(), []

    def write(connection: Connection, items: Sequence[int]) -> None:
        seen.extend(items)
        begun.set()

    async def work(writer: GroupWriter) -> None:
        first = writer.submit(write, [-1])
        both = writer.submit(write, list(range(count)), size=size)
        # The loop gets no turn here: what is not handed over by now is not before it has one.
        assert begun.wait(LIMIT if at_once else 0.0) is at_once
        await asyncio.gather(first, both)

    writing(scene, work)
    assert seen == [-1, *range(count)]


def test_no_more_bytes_than_find_room_are_written_in_one_transaction(scene: Scene) -> None:
    notes, free = Notes(), threading.Event()

    def block(connection: Connection, items: Sequence[str]) -> None:
        assert free.wait(LIMIT)

    half = GROUP_BYTES // 2
    sizes = [3 * GROUP_BYTES, 0, GROUP_BYTES, 0, half, half, 1, 0]

    async def work(writer: GroupWriter) -> None:
        blocked = submit(writer, block, "")
        written = [writer.submit(notes.write, [str(n)], size=size) for n, size in enumerate(sizes)]
        free.set()
        await asyncio.gather(blocked, *written)

    writing(scene, work)
    assert [text for group in notes.groups for text in group] == list("01234567")
    for group in notes.groups:
        assert sum(sizes[int(text)] for text in group) <= GROUP_BYTES or len(group) == 1
    assert ["0"] in notes.groups
    assert ["4", "5"] in notes.groups
