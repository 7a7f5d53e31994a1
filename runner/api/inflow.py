"""How many bytes of answers are in memory at once, and which connections read on where that is all there may be.

What waits at the server, or in the system's own buffers, takes none: a connection that reads no more holds its
server back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeAlias

MOST_BYTES = 64 * 2**20
"""Enough for one answer being stored, one being read, and some to come in meanwhile, of the largest that are usual:
17 MB for 2,048 vectors of 1,536 numbers in base64."""

_LANDING_SECONDS = 0.02

Later: TypeAlias = Callable[[Callable[[], None]], object]


class Reader(Protocol):
    """A connection, as far as it can be told not to read."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Inflow:
    """Bounds the bytes of answers that are in memory, by at most one answer more than `most`.

    `coming` counts those of answers that are not whole yet, `waiting` those that wait to be stored. Where both are
    too many, connections read no more until some are stored; and where none are, the answer that is ahead goes on.
    """

    def __init__(self, most: int = MOST_BYTES, *, later: Later | None = None) -> None:
        """`later` calls a function a little later, by when it is told of an answer that it waits to be stored; None
        for the loop's own way."""
        self._most = most
        self._later = later or _later
        self.coming = 0
        self.waiting = 0
        self._held: dict[Reader, None] = {}
        self._ahead: Reader | None = None
        self._seen = 0

    @property
    def is_full(self) -> bool:
        """Whether there is hardly room for more."""
        return bool(self._held) or 4 * (self.coming + self.waiting) > 3 * self._most

    def came(self, reader: Reader, size: int) -> None:
        """So many bytes of an answer came over a connection."""
        self.coming += size
        if self.coming + self.waiting > self._most:
            self._hold(reader)

    def went(self, reader: Reader, size: int) -> None:
        """The bytes that came over a connection, so many in all, are its no more."""
        self.coming -= size
        if reader is self._ahead:
            self._ahead = None
        if reader in self._held:
            self._release(reader)
        if self._held:
            self._later(self._look)

    def wait(self, size: int) -> None:
        """So many bytes of answers wait to be stored now."""
        self.waiting = size
        self._look()

    def nudge(self) -> None:
        """To be told each second: where nothing has come since the last time, one connection more reads on, for the
        server of the one that is ahead may have stopped."""
        if self._held and not self.waiting and self.coming == self._seen:
            self._ahead = None
            self._look()
        self._seen = self.coming

    def _hold(self, reader: Reader) -> None:
        if reader in self._held or reader is self._ahead:
            return
        if self._ahead is None and not self.waiting:
            self._ahead = reader
            return
        self._held[reader] = None
        reader.pause_reading()

    def _look(self) -> None:
        """See who may read on."""
        if not self._held:
            return
        if self.coming + self.waiting <= self._most:
            self._ahead = None
            for reader in list(self._held):
                self._release(reader)
        elif self._ahead is None and not self.waiting:
            self._ahead = next(iter(self._held))
            self._release(self._ahead)

    def _release(self, reader: Reader) -> None:
        del self._held[reader]
        reader.resume_reading()


def _later(look: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(_LANDING_SECONDS, look)
