"""Group commit: many calls hand in what they have to write, one thread commits it together.

A write is done when `await submit(...)` returns: its transaction is on disk then. Writes that arrive while a
commit is under way wait for the next one, which takes them all; that is the back-pressure.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from runner.errors import Fenced, RunnerError, StoreUnusable
from runner.store import series
from runner.store.database import Store
from runner.store.faults import Broken, DiskFull

Item = TypeVar("Item")
Result = TypeVar("Result")
Verb = Callable[[Connection, Sequence[Item]], Sequence[Result] | None]

GROUP = 256
"""The most writes of one commit."""

GROUP_BYTES = 8 * 2**20
"""The most bytes of one commit, or else one write: what it changes is to find room in SQLite's cache."""

MANY, LARGE = 256, 2**20
"""So many items, or bytes of a packed call, take longer to write than a commit: they wait for no other write."""

BUSY, LINGER = 24, 0.001
"""After a commit of so many items the next waits so many seconds for more to take along: each costs as much as twenty
of them, and what waits for it is to go to a server that takes a hundred times as long."""


@dataclass(frozen=True, slots=True)
class _Write(Generic[Item]):
    verb: Verb[Item, Any]
    items: Sequence[Item]
    size: int
    done: asyncio.Future[Any]


class GroupWriter:
    """Commits what is submitted, in groups, from a thread of its own, while a tenure holds.

    A group that cannot be committed is written one by one: only what is at fault fails.
    After a disk has filled, the ballast is released once and `on_disk_full` is called: what is in flight can
    still be stored, and nothing new should be started.
    """

    def __init__(self, store: Store, tenure: series.Tenure, on_disk_full: Callable[[], None]) -> None:
        self._store = store
        self._tenure = tenure
        self._on_disk_full = on_disk_full
        self._queue: queue.SimpleQueue[_Write[Any] | None] = queue.SimpleQueue()
        self._gathered: list[_Write[Any]] = []
        self._held: _Write[Any] | None = None
        self._committed = 0
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(
        self, verb: Verb[Item, Result], items: Sequence[Item], *, size: int = 0
    ) -> asyncio.Future[Sequence[Result]]:
        """Write items by a verb of the store, in one transaction; await what the verb says of each, in order: they
        are on disk then. `size` is about how many bytes that is, where it is many.

        A write that was handed in happens, whoever waits for it: a paid answer outlives a cancelled call. What is
        handed in first is written first.
        """
        done: asyncio.Future[Sequence[Result]] = self._loop.create_future()
        if not self._gathered:
            # What is written of ended calls is followed, a turn of the loop later, by the claims of those that take
            # their place: one commit for both.
            self._loop.call_soon(self._loop.call_soon, self._hand_over)
        self._gathered.append(_Write(verb, items, size, done))
        if len(items) >= MANY or size >= LARGE:
            self._hand_over()
        return done

    async def close(self) -> None:
        """Commit what was handed in, and end the thread."""
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        last = False
        while not last:
            group, last = self._take()
            if group:
                self._commit(group)
                self._committed = sum(len(one.items) for one in group)
                if any(one.size >= LARGE for one in group):
                    self._store.spare_memory()

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, []
        for one in gathered:
            self._queue.put(one)

    def _take(self) -> tuple[list[_Write[Any]], bool]:
        """What is written next, in one transaction, and whether it is the last."""
        first, self._held = self._held, None
        if first is None:
            first = self._queue.get()
            if self._committed >= BUSY:
                time.sleep(LINGER)
        if first is None:
            return [], True
        group, size = [first], first.size
        while len(group) < GROUP:
            try:
                one = self._queue.get_nowait()
            except queue.Empty:
                break
            if one is None:
                return group, True
            size += one.size
            if size > GROUP_BYTES:
                self._held = one
                break
            group.append(one)
        return group, False

    def _commit(self, group: list[_Write[Any]]) -> None:
        try:
            try:
                results = self._transaction(group)
            except DiskFull:
                if not self._store.release_ballast():
                    raise
                self._loop.call_soon_threadsafe(self._on_disk_full)
                results = self._transaction(group)
        except RunnerError as error:
            self._give_up(group, error)
        except BaseException as error:  # noqa: BLE001 - the outermost frame of a thread
            # It must answer those who wait, and go on to answer those who come, or they would wait for ever.
            broken = StoreUnusable(f"The store's writer failed: {type(error).__name__}: {error}")
            broken.__cause__ = error
            self._give_up(group, broken)
        else:
            self._loop.call_soon_threadsafe(_resolve, group, results)

    def _give_up(self, group: list[_Write[Any]], error: RunnerError) -> None:
        if len(group) == 1 or isinstance(error, (Broken, DiskFull, Fenced)):
            self._loop.call_soon_threadsafe(_fail, group, error)
            return
        # What cannot be written must not cost the others, paid answers perhaps, their place.
        for one in group:
            self._commit([one])

    def _transaction(self, group: list[_Write[Any]]) -> list[Any]:
        results: list[Any] = [()] * len(group)
        with self._store.write() as connection:
            series.fence(connection, self._tenure)
            by_verb: dict[Verb[Any, Any], list[int]] = {}
            for place, one in enumerate(group):
                by_verb.setdefault(one.verb, []).append(place)
            for verb, places in by_verb.items():
                got = verb(connection, [item for place in places for item in group[place].items])
                if got is not None:
                    at = 0
                    for place in places:
                        count = len(group[place].items)
                        results[place] = got[at : at + count]
                        at += count
        return results


def _resolve(group: list[_Write[Any]], results: list[Any]) -> None:
    for one, result in zip(group, results, strict=True):
        if not one.done.done():
            one.done.set_result(result)


def _fail(group: list[_Write[Any]], error: RunnerError) -> None:
    for one in group:
        if not one.done.done():
            one.done.set_exception(error)
