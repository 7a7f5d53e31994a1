"""The batches of a run, side by side: as many as the account's queue takes, each living its own life.

    plan a shard ──▶ Life ──▶ ended ──▶ the rows that are left are planned again
         ▲                      │
         └── while there is room in the queue, the budget and on the disk

Batches of earlier runs of the series that are still out are lived to their end as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup

from runner.dispatch.batch_life import Life
from runner.dispatch.patience import Patience, StillOut, Stopped
from runner.errors import RunnerError
from runner.store.batches import Kept

MOST_UNSENT = 2
"""Shards that are written and not submitted yet: each takes its size of the disk."""

MOST_OUT = 500


@dataclass(frozen=True, slots=True)
class Room:
    """Why there is nothing to plan now. `until` is when rows are due again, in seconds since 1970, None if none
    wait; `error` what ends the run if no batch is out whose end could change it; `full` says that rows wait for
    room in the account's queue."""

    until: float | None = None
    error: RunnerError | None = None
    full: bool = False


class Batches:
    """Lives the batches of one start. `plan` writes the next shard and keeps it in the store; `live` makes the
    life of a batch; both are handed in."""

    def __init__(
        self,
        *,
        plan: Callable[[], Awaitable[Kept | Room]],
        live: Callable[[Kept], Life],
        patience: Patience,
        clock: Callable[[], float],
        plans: bool = True,
        calls_off: bool = False,
    ) -> None:
        self._plan = plan
        self._live = live
        self._patience = patience
        self._clock = clock
        self._plans = plans and not calls_off
        self._calls_off = calls_off
        self._lives: dict[int, Life] = {}
        self._changed = asyncio.Event()
        self._error: RunnerError | None = None
        self._waiting: Room | None = None
        self._rests_until = 0.0
        self.still_out = False

    @property
    def lives(self) -> list[Life]:
        """The batches that are on their way or out, the oldest first."""
        return [self._lives[number] for number in sorted(self._lives)]

    @property
    def waits_for_room(self) -> bool:
        """Whether rows wait until the account's queue has room."""
        return self._waiting is not None and self._waiting.full

    def stop(self, error: RunnerError) -> None:
        """End, with this error, as soon as nothing is half-way; what is out stays out."""
        self._error = self._error or error
        self._patience.stop()
        self._changed.set()

    def call_off(self) -> None:
        """Cancel what is out, take in what it did, and plan no more."""
        if self._calls_off:
            return
        self._plans, self._calls_off = False, True
        for life in self._lives.values():
            life.call_off()
        self._changed.set()

    def look_again(self) -> None:
        """A batch is further than it was: there may be room for the next."""
        self._changed.set()

    def rest(self, seconds: float) -> None:
        """Plan nothing for a while: the last batch got no row any further."""
        self._rests_until = self._clock() + seconds

    def hint(self, remote_ids: list[str]) -> None:
        """Somebody says that something has happened to these batches."""
        for life in self._lives.values():
            if life.submission.batch_id in remote_ids:
                life.poke.set()

    async def run(self, out: list[Kept]) -> None:
        """Live those that are out, and plan others, until nothing is left to ask. Raises the RunnerError that
        ended it early; `still_out` then, or after it, says that batches are out."""
        async with anyio.create_task_group() as group:
            for kept in out:
                self._begin(group, kept)
            while not self._patience.is_stopping and await self._go_on(group):
                pass
        self.still_out = bool(self._lives)
        if self._error is not None:
            raise self._error

    async def _go_on(self, group: TaskGroup) -> bool:
        """Plan what can be planned, or wait for a change; False if there is nothing to wait for."""
        self._changed.clear()
        room = await self._plan_next(group)
        if room is None:
            return True
        self._waiting = room
        if not self._busy():
            return await self._wait_without_batches(room)
        left = None if room.until is None else max(0.05, room.until - self._clock())
        with anyio.move_on_after(left):
            await self._changed.wait()
        return True

    async def _plan_next(self, group: TaskGroup) -> Room | None:
        """Plan one shard; None if one was planned."""
        if not self._plans or self._patience.is_stopping:
            return Room()
        if any(life.takes_in for life in self._lives.values()):
            # What it leaves goes into the same shard.
            return Room()
        if self._clock() < self._rests_until:
            return Room(until=self._rests_until)
        unsent = sum(not life.is_sent for life in self._lives.values())
        if unsent >= MOST_UNSENT or len(self._lives) >= MOST_OUT:
            return Room(full=True)
        planned = await self._plan()
        if isinstance(planned, Room):
            return planned
        self._begin(group, planned)
        return None

    async def _wait_without_batches(self, room: Room) -> bool:
        if room.error is not None:
            # Where some are out that this start does not wait for, their end may change it.
            if not self._lives:
                self.stop(room.error)
            return False
        if room.until is None:
            return False
        try:
            # Who waits for room waits for another's end, however soon it is to be tried again.
            await self._patience.until(room.until, self._changed, soon=not room.full)
        except (StillOut, Stopped):
            return False
        return True

    def _busy(self) -> bool:
        """Whether a life goes on that may change what can be planned."""
        return any(not life.sleeps for life in self._lives.values())

    def _begin(self, group: TaskGroup, kept: Kept) -> None:
        life = self._live(kept)
        self._lives[kept.id] = life
        if self._calls_off:
            life.call_off()
        group.start_soon(self._run, life)

    async def _run(self, life: Life) -> None:
        try:
            await life.run()
        except (StillOut, Stopped):
            life.sleeps = True
        except RunnerError as error:
            life.sleeps = True
            self.stop(error)
        else:
            del self._lives[life.kept.id]
            for other in self._lives.values():
                if other.kept.model == life.kept.model and other.waits_for_room:
                    other.poke.set()
        self._changed.set()
