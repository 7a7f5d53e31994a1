"""Answers that have come: settled a handful at a time, and counted until they are in the store."""

from __future__ import annotations

import asyncio

from runner.dispatch.flight import HANDFUL, HANDFUL_BYTES, Flight, Hold, handful
from runner.model import Reply


class Landing:
    """Where calls land that have come back. `hold` is told how many bytes of answers wait to be stored."""

    def __init__(self, hold: Hold | None) -> None:
        self._hold = hold
        self._landed: list[tuple[Flight, Reply]] = []
        self._bytes = 0
        self._waiting = 0
        self._arrival = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether no more answers may be here than are; so it is where nobody counts them."""
        return self._hold is None or self._hold.is_full

    def add(self, flight: Flight, reply: Reply) -> None:
        """A call has come back."""
        size = len(reply.body)
        self._landed.append((flight, reply))
        self._bytes += size
        self._wait(size)
        self._arrival.set()

    async def some(self) -> list[tuple[Flight, Reply]]:
        """Those that settle next, a handful at most, once there is one."""
        if self._landed:
            await asyncio.sleep(0)
        await self._arrival.wait()
        # As long as each turn of the loop brings more: what settles in one go costs less.
        count = 0
        while count < len(self._landed) < HANDFUL and self._bytes <= HANDFUL_BYTES:
            count = len(self._landed)
            await asyncio.sleep(0)
        return self._take()

    def stored(self, size: int) -> None:
        """So many bytes of answers are in the store, or never will be."""
        self._wait(-size)

    def _take(self) -> list[tuple[Flight, Reply]]:
        count = handful([reply for _, reply in self._landed[:HANDFUL]])
        taken, self._landed = self._landed[:count], self._landed[count:]
        self._bytes -= sum(len(reply.body) for _, reply in taken)
        if not self._landed:
            self._arrival.clear()
        return taken

    def _wait(self, size: int) -> None:
        self._waiting += size
        if size and self._hold is not None:
            self._hold.wait(self._waiting)
