"""Batches that a store takes over: made by a run that it knows nothing of, and found at their server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from runner.remote import RemoteBatch
from runner.store import batches, bulk
from runner.store.batches import NewBatch, NewLine
from runner.submission import Stage


class Ready(NamedTuple):
    """A task that is ready to be asked, with the record to ask it from."""

    task_id: int
    record: bytes


def ready(
    connection: Connection, run_id: int, series_id: int, keys: Sequence[tuple[bytes, int]]
) -> dict[tuple[bytes, int], Ready]:
    """Those of a run's tasks of these keys that are ready to be asked."""
    # Each lookup is by a unique key: CROSS JOIN keeps the order in which they are written.
    found = bulk.find(
        connection,
        "SELECT task.hash, task.occurrence, task.id, row.record FROM (VALUES {rows}) AS wanted"
        " CROSS JOIN task ON task.series_id = ? AND task.hash = wanted.column1"
        " AND task.occurrence = wanted.column2 AND task.state = 'ready' AND task.run_id = ?"
        " CROSS JOIN row ON row.id = task.row_id",
        keys,
        series_id,
        run_id,
    )
    return {one[:2]: Ready(*one[2:]) for one in found}


def adopt(connection: Connection, new: NewBatch, lines: Sequence[NewLine], seen: RemoteBatch) -> int:
    """Take over a batch that is submitted already, with those of its lines whose tasks are ready; its number.
    StoreUnusable if a task is not."""
    assert new.submission.stage is Stage.SUBMITTED
    [number] = batches.plan(connection, [(new, lines)])
    batches.keep(connection, [(number, new.submission)])
    batches.see(connection, [(number, seen)])
    if seen.created_at is not None:
        # Its age is counted from here.
        connection.exec_driver_sql(
            "UPDATE batch SET submitted_at = ? WHERE id = ?", (round(seen.created_at * 1_000_000), number)
        )
    return number
