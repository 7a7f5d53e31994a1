"""Calls on their way, and what keeps the next from leaving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from runner.model import Call, Reply

HANDFUL = 64
"""The most calls that start, or settle, in one go."""

UNPROVEN = 20
"""The most calls in flight before the first is answered: what is wrong with all of them is found out by few."""

HANDFUL_BYTES = 8 * 2**20
"""The most bytes of answers that settle in one go, unless a single one has more: what is settled is in memory twice."""


class Sent(Protocol):
    """A call that has left. Once it is cancelled nothing more is told of it."""

    def cancel(self) -> object: ...


class Hold(Protocol):
    """Bounds the bytes of answers that are here: it is told of those that wait to be stored."""

    def wait(self, size: int) -> None: ...

    @property
    def is_full(self) -> bool: ...


@dataclass(slots=True, eq=False)
class Flight:
    """A call on its way: its ticket at the limiter, whether it is the prober, and where it is once it has left."""

    call: Call
    ticket: int
    prober: bool
    sent: Sent | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Why no further call starts now: until something ends, or for so many seconds, or as long as the gate is
    held; or because nothing is left."""

    seconds: float | None = None
    by_time: bool = False
    by_gate: bool = False
    is_end: bool = False


def handful(replies: Sequence[Reply]) -> int:
    """How many of these replies settle in one go: one, or as many as are not too many and not too large."""
    size = 0
    for count, reply in enumerate(replies[:HANDFUL]):
        size += len(reply.body)
        if count and size > HANDFUL_BYTES:
            return count
    return min(len(replies), HANDFUL)
