"""Calls on their way, and what keeps the next from leaving."""

from __future__ import annotations

from dataclasses import dataclass

from runner.model import Call


@dataclass(slots=True, eq=False)
class Flight:
    """A call on its way: its ticket at the limiter, and whether it is the prober."""

    call: Call
    ticket: int
    prober: bool


@dataclass(frozen=True, slots=True)
class Pause:
    """Why no further call starts now: until something ends, or for so many seconds, or as long as the gate is
    held; or because nothing is left."""

    seconds: float | None = None
    by_time: bool = False
    by_gate: bool = False
    is_end: bool = False
