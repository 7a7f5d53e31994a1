"""The lines of batches: the tasks that may become some, those that are still out, and what they were written from.

The calls of a batch are numbered in the order of its lines. A number can be given again once a batch is dissolved:
so it is the call that says whose line it is, not its number alone.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection


class ReadyTask(NamedTuple):
    """A task whose turn has come, with what its line is written from."""

    task_id: int
    row_id: int
    due_at: int
    hash: bytes
    occurrence: int
    record: bytes


class Member(NamedTuple):
    """A task that is still out in a batch, with what it takes to settle it. `reserved` is its worst case in
    pico-dollars, None if unknown."""

    call_id: int
    task_id: int
    row_id: int
    attempts: int
    reserved: int | None
    key: str | None


class LineKey(NamedTuple):
    """The task that a line of a batch asks, by its key."""

    call_id: int
    hash: bytes
    occurrence: int


class LineContent(NamedTuple):
    """What a line of a batch was written from."""

    call_id: int
    hash: bytes
    occurrence: int
    record: bytes


_MEMBER = "task.call_id, task.id, task.row_id, task.attempts, call.reserved, row.key"
_CALLS = "call_id >= max(batch.first_call, ?) AND call_id < batch.first_call + batch.lines"
_LEFT = (
    "SELECT {what} FROM batch"
    f" CROSS JOIN task ON task.run_id = batch.run_id AND task.state = 'batched' AND task.{_CALLS}"
    " CROSS JOIN call ON call.id = task.call_id AND call.batch_id = batch.id"
    " CROSS JOIN row ON row.id = task.row_id WHERE batch.id = ? ORDER BY task.call_id LIMIT ?"
)
# What is settled has an attempt of its call; what is not is still out in it.
_LINES = (
    "SELECT task.call_id, task.id AS task_id FROM batch"
    f" CROSS JOIN task ON task.run_id = batch.run_id AND task.state = 'batched' AND task.{_CALLS}"
    " CROSS JOIN call ON call.id = task.call_id AND call.batch_id = batch.id WHERE batch.id = ?"
    " UNION ALL SELECT attempt.call_id, attempt.task_id FROM batch"
    f" CROSS JOIN attempt ON attempt.{_CALLS}"
    " CROSS JOIN call ON call.id = attempt.call_id AND call.batch_id = batch.id WHERE batch.id = ?"
    " ORDER BY 1 LIMIT ?"
)


def next_ready(
    connection: Connection, run_id: int, *, after: tuple[int, int], upto: int, limit: int, max_bytes: int
) -> list[ReadyTask]:
    """Some ready tasks of a run that are due at `upto` or before, the longest due first: those after the one of
    this (due time, row), as far as `max_bytes` of records."""
    found = connection.exec_driver_sql(
        "SELECT task.id, task.row_id, task.due_at, task.hash, task.occurrence, row.record FROM task"
        " JOIN row ON row.id = task.row_id WHERE task.run_id = ? AND task.state = 'ready'"
        " AND (task.due_at, task.row_id) > (?, ?) AND task.due_at <= ?"
        " ORDER BY task.due_at, task.row_id LIMIT ?",
        (run_id, *after, upto, limit),
    )
    taken: list[ReadyTask] = []
    size = 0
    # The driver's own cursor, row by row: a chunk of large records could be all of the memory.
    for one in map(ReadyTask._make, iter(found.cursor.fetchone, None)):
        taken.append(one)
        size += len(one.record)
        if size >= max_bytes:
            break
    found.close()
    return taken


def left(connection: Connection, batch_id: int, *, after_call: int, limit: int) -> list[Member]:
    """The tasks that are still out in a batch, in the order of its lines: those after the call `after_call`."""
    found = connection.exec_driver_sql(_LEFT.format(what=_MEMBER), (after_call + 1, batch_id, limit))
    return [Member(*one) for one in found]


def members(
    connection: Connection, batch_id: int, *, after_call: int, limit: int
) -> list[tuple[bytes, int, Member]]:
    """What `left` tells, each with the hash and the occurrence that its line is known by."""
    what = f"task.hash, task.occurrence, {_MEMBER}"
    found = connection.exec_driver_sql(_LEFT.format(what=what), (after_call + 1, batch_id, limit))
    return [(one[0], one[1], Member._make(one[2:])) for one in found.cursor.fetchall()]


def worst_case(connection: Connection, batch_id: int) -> int:
    """What the tasks that are still out in a batch can come to, in pico-dollars, as far as it is known."""
    return int(
        connection.exec_driver_sql(
            "SELECT coalesce(sum(call.reserved), 0) FROM batch"
            f" CROSS JOIN task ON task.run_id = batch.run_id AND task.state = 'batched' AND task.{_CALLS}"
            " CROSS JOIN call ON call.id = task.call_id AND call.batch_id = batch.id WHERE batch.id = ?",
            (0, batch_id),
        ).scalar_one()
    )


def content(connection: Connection, batch_id: int, *, after_call: int, limit: int) -> list[LineContent]:
    """What the lines of a batch were written from, in their order, whatever has become of them since."""
    found = connection.exec_driver_sql(
        f"SELECT line.call_id, task.hash, task.occurrence, row.record FROM ({_LINES}) AS line"
        " CROSS JOIN task ON task.id = line.task_id CROSS JOIN row ON row.id = task.row_id ORDER BY line.call_id",
        (after_call + 1, batch_id, after_call + 1, batch_id, limit),
    )
    return [LineContent(*one) for one in found]


def keys(connection: Connection, batch_id: int, *, after_call: int, limit: int) -> list[LineKey]:
    """The tasks of the lines of a batch, in their order, whatever has become of them since."""
    found = connection.exec_driver_sql(
        f"SELECT line.call_id, task.hash, task.occurrence FROM ({_LINES}) AS line"
        " CROSS JOIN task ON task.id = line.task_id ORDER BY line.call_id",
        (after_call + 1, batch_id, after_call + 1, batch_id, limit),
    )
    return [LineKey(*one) for one in found]


def record(connection: Connection, row_id: int) -> bytes:
    """The record of a row."""
    return bytes(connection.exec_driver_sql("SELECT record FROM row WHERE id = ?", (row_id,)).scalar_one())
