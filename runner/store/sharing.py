"""Who shares an account's limits: the runs of this store that ask at the same account right now.

A run asks while its process lives, which the lock of its series tells without a clock, and while its last sign
of life says that something is left to ask and that nothing holds it. Limits are an account's, not a model's, as
far as this goes: which models a requests file asks is known only once its last line is read, and some models
share one limit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, select

from runner.model import RunState
from runner.store.locks import SeriesLock
from runner.store.schema import run, series

_ACCOUNT = ("provider", "origin", "organization", "project")


class Sharing:
    """The series of a store that are at one account, each with its lock. To be asked each second."""

    def __init__(self, store_path: Path, series_id: int) -> None:
        self._path = store_path
        self._own = series_id
        self._account: tuple[Any, ...] = ()
        self._locks: dict[int, SeriesLock] = {}
        self._known_to = 0

    def runs_asking(self, connection: Connection) -> int:
        """How many runs ask at this account, this one included."""
        self._look_for_series(connection)
        others = [one for one, lock in self._locks.items() if lock.is_held()]
        return 1 + sum(_is_asking(connection, one) for one in others)

    def _look_for_series(self, connection: Connection) -> None:
        if not self._account:
            text = connection.execute(select(series.c.identity).where(series.c.id == self._own)).scalar_one()
            self._account = _account(text)
        new = select(series.c.id, series.c.digest, series.c.identity).where(series.c.id > self._known_to)
        for number, digest, identity in connection.execute(new.order_by(series.c.id)):
            self._known_to = number
            if number != self._own and _account(identity) == self._account:
                self._locks[number] = SeriesLock(self._path, digest)


def _account(identity: str) -> tuple[Any, ...]:
    known = orjson.loads(identity)
    return tuple(known[name] for name in _ACCOUNT)


def _is_asking(connection: Connection, series_id: int) -> bool:
    """Whether a living series has an unfinished run that has calls to make."""
    active = (run.c.series_id == series_id) & (run.c.state == RunState.ACTIVE.value)
    for (progress,) in connection.execute(select(run.c.progress).where(active)):
        # One that has given no sign of life yet is about to ask.
        said = orjson.loads(progress) if progress else {}
        if said.get("left", 1) > 0 and not said.get("held_for"):
            return True
    return False
