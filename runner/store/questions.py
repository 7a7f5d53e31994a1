"""Questions: what a series knows of one that a row asks, by its hash and occurrence."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection

from runner.model import TaskState


class Fate(NamedTuple):
    """What became of a question: where its task stands, for which run, and how its answer ended."""

    state: TaskState
    run_id: int
    finish_reason: str | None
    has_fault: bool


def fate(connection: Connection, series_id: int, hash_: bytes, occurrence: int) -> Fate | None:
    """What became of a question; None if the series has never taken it up."""
    found = connection.exec_driver_sql(
        "SELECT state, run_id, finish_reason, fault IS NOT NULL FROM task"
        " WHERE series_id = ? AND hash = ? AND occurrence = ?",
        (series_id, hash_, occurrence),
    ).first()
    return None if found is None else Fate(TaskState(found[0]), found[1], found[2], bool(found[3]))
