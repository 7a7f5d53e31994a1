"""The deadlines of the calls in flight: one timer for them all, since all have the same time."""

from __future__ import annotations

import asyncio
import time

from runner.api.connection import Ending, Waiter

LATE = Ending("timeout", "")


class Deadlines:
    """Ends each waiter with `LATE` once its time has come.

    The waiters come in the order of their deadlines, so that only the first needs a timer; one for each would
    cost a tenth of a call. Who comes too late for the order may be ended late by as much.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: dict[Waiter, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, waiter: Waiter, at: float) -> None:
        """Ends `waiter` at a time of the monotonic clock, not before those added earlier."""
        self._due[waiter] = at
        if self._timer is None:
            self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._end_the_late)

    def drop(self, waiter: Waiter) -> None:
        """Forgets a waiter that has what it waited for."""
        self._due.pop(waiter, None)

    def _end_the_late(self) -> None:
        self._timer = None
        now = time.monotonic()
        while self._due:
            waiter, at = next(iter(self._due.items()))
            if at > now:
                # The loop's clock may run behind by a millisecond.
                self._timer = self._loop.call_later(max(0.001, at - now), self._end_the_late)
                return
            del self._due[waiter]
            waiter.end(LATE)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
