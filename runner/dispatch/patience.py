"""Waiting until a time of the wall clock: for as long as it takes, or, for cron, hardly at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio

AT_ONCE = 2.0
"""Seconds that a start waits which is not to wait: for a second look, say."""

LONGEST_SLEEP = 60.0
"""Seconds after which a sleeper looks at the clock again: it may have been set, or the machine have slept."""


class StillOut(Exception):
    """There is nothing to do now, and this start does not wait."""


class Stopped(Exception):
    """There is nothing to do now, and this start is to end."""


class Patience:
    """How long a start waits. `clock` tells the seconds since 1970."""

    def __init__(self, *, clock: Callable[[], float], waits: bool) -> None:
        self._clock = clock
        self._waits = waits
        self._stopping = False
        self._stop = asyncio.Event()

    @property
    def is_stopping(self) -> bool:
        return self._stopping

    def stop(self) -> None:
        """Let nobody wait any more: whoever does, or will, ends."""
        self._stopping = True
        self._stop.set()

    async def until(self, when: float, poke: asyncio.Event, *, soon: bool = True) -> None:
        """Wait until `when`, or until somebody pokes. Raises Stopped, or StillOut where that would be too long, or
        what is waited for does not come `soon`, however short the wait is."""
        began, asked = anyio.current_time(), when - self._clock()
        while True:
            if self._stopping:
                raise Stopped
            # A clock that is set back makes no wait longer; one that goes on while the machine sleeps ends it.
            left = min(when - self._clock(), asked - (anyio.current_time() - began))
            if poke.is_set() or left <= 0:
                poke.clear()
                return
            if not self._waits and (left > AT_ONCE or not soon):
                raise StillOut
            await self._first_of(poke, min(left, LONGEST_SLEEP))

    async def _first_of(self, poke: asyncio.Event, seconds: float) -> None:
        waiting = [asyncio.ensure_future(one.wait()) for one in (poke, self._stop)]
        try:
            with anyio.move_on_after(seconds):
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()
