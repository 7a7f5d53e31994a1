"""What a store knows of batches by the ids that their server gave: whether their results are taken in, and which
files are needed still."""

from __future__ import annotations

from typing import NamedTuple

import orjson
from sqlalchemy import Connection

TAKEN_IN = frozenset({"collected", "failed", "cancelled"})
"""The ends of batches after which nothing is left to fetch."""


class Known(NamedTuple):
    """The batches of a store. `ends` has, by its server's id, how each has ended, None where it has not; `shards` and
    `files` are those of batches that have not, `files` by their server's ids."""

    ends: dict[str, str | None]
    shards: frozenset[str]
    files: frozenset[str]

    def has_taken_in(self, remote_id: str) -> bool:
        """Whether the results of this batch are in the store."""
        return self.ends.get(remote_id) in TAKEN_IN


NOTHING_KNOWN = Known({}, frozenset(), frozenset())


def known(connection: Connection) -> Known:
    """All that the store knows of its batches."""
    ends: dict[str, str | None] = {}
    shards: set[str] = set()
    files: set[str] = set()
    found = connection.exec_driver_sql(
        "SELECT remote_id, result, CASE WHEN ended_at IS NULL THEN submission END FROM batch ORDER BY id"
    )
    for remote_id, result, submission in found:
        if remote_id is not None:
            ends[remote_id] = result
        if submission is not None:
            out = orjson.loads(submission)
            shards.add(out["shard"])
            files.update(out["files"])
    return Known(ends, frozenset(shards), frozenset(files))


def has_planned(connection: Connection, series_id: int) -> bool:
    """Whether a series has ever planned a batch, as far as this store goes back."""
    found = connection.exec_driver_sql("SELECT 1 FROM batch WHERE series_id = ? LIMIT 1", (series_id,))
    return found.first() is not None


def is_known(connection: Connection, remote_id: str) -> bool:
    """Whether the batch that its server knows by this id is one of this store's."""
    found = connection.exec_driver_sql("SELECT 1 FROM batch WHERE remote_id = ? LIMIT 1", (remote_id,))
    return found.first() is not None
