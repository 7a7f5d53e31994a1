"""The lines of batches: the tasks that may become some, those that are still out, and what they were written from.

The calls of a batch are numbered in the order of its lines. A number can be given again once a batch is dissolved:
so it is the call that says whose line it is, not its number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from runner.store import bulk


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

    task_id: int
    call_id: int
    row_id: int
    attempts: int
    reserved: int | None
    key: str | None
    record: bytes


class LineContent(NamedTuple):
    """What a line of a batch was written from."""

    call_id: int
    hash: bytes
    occurrence: int
    record: bytes


_MEMBER = "task.id, task.call_id, task.row_id, task.attempts, call.reserved, row.key, row.record"
_CALLS = "call_id >= max(batch.first_call, ?) AND call_id < batch.first_call + batch.lines"


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


def members(
    connection: Connection, batch_id: int, keys: Sequence[tuple[bytes, int]]
) -> dict[tuple[bytes, int], Member]:
    """Those of these tasks, by key, that are still out in this batch."""
    # Each lookup is by a unique key: CROSS JOIN keeps the order in which they are written.
    found = bulk.find(
        connection,
        f"SELECT task.hash, task.occurrence, {_MEMBER} FROM (VALUES {{rows}}) AS wanted CROSS JOIN batch"
        " CROSS JOIN task ON task.series_id = batch.series_id AND task.hash = wanted.column1"
        " AND task.occurrence = wanted.column2 AND task.state = 'batched'"
        " CROSS JOIN call ON call.id = task.call_id AND call.batch_id = batch.id"
        " CROSS JOIN row ON row.id = task.row_id WHERE batch.id = ?",
        keys,
        batch_id,
    )
    return {one[:2]: Member._make(one[2:]) for one in found}


def left(connection: Connection, batch_id: int, *, after_call: int, limit: int) -> list[Member]:
    """The tasks that are still out in a batch, in the order of its lines: those after the call `after_call`."""
    found = connection.exec_driver_sql(
        f"SELECT {_MEMBER} FROM batch"
        f" CROSS JOIN task ON task.run_id = batch.run_id AND task.state = 'batched' AND task.{_CALLS}"
        " CROSS JOIN call ON call.id = task.call_id AND call.batch_id = batch.id"
        " CROSS JOIN row ON row.id = task.row_id WHERE batch.id = ? ORDER BY task.call_id LIMIT ?",
        (after_call + 1, batch_id, limit),
    )
    return [Member(*one) for one in found]


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
    # What is settled has an attempt of its call; what is not is still out in it.
    found = connection.exec_driver_sql(
        "SELECT line.call_id, task.hash, task.occurrence, row.record FROM ("
        " SELECT task.call_id, task.id AS task_id FROM batch"
        f" CROSS JOIN task ON task.run_id = batch.run_id AND task.state = 'batched' AND task.{_CALLS}"
        " CROSS JOIN call ON call.id = task.call_id AND call.batch_id = batch.id WHERE batch.id = ?"
        " UNION ALL SELECT attempt.call_id, attempt.task_id FROM batch"
        f" CROSS JOIN attempt ON attempt.{_CALLS}"
        " CROSS JOIN call ON call.id = attempt.call_id AND call.batch_id = batch.id WHERE batch.id = ?"
        " ORDER BY 1 LIMIT ?) AS line"
        " CROSS JOIN task ON task.id = line.task_id CROSS JOIN row ON row.id = task.row_id ORDER BY line.call_id",
        (after_call + 1, batch_id, after_call + 1, batch_id, limit),
    )
    return [LineContent(*one) for one in found]
