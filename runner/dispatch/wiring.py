"""What an online dispatch does its work by."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from runner.dispatch.flight import Hold, Sent
from runner.model import Call, Reply, Signal

Start = Callable[[Call, Callable[[Reply | BaseException], None]], Sent | None]
"""Sends a call. Who is to hear what came of it is told once, and not of what is cancelled."""
ClaimCalls = Callable[[Sequence[Call]], Awaitable[Sequence[int]]]
Settle = Callable[[Sequence[tuple[Call, Reply]]], tuple[Sequence[Signal], Awaitable[object]]]
"""What ended calls mean for the others, at once, and what to await until that is in the store."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What the dispatch does its work by: claim in the store, start on the network, settle in the store. `hold`
    bounds the answers that are in memory, None where nothing does."""

    claim: ClaimCalls
    start: Start
    settle: Settle
    clock: Callable[[], float]
    hold: Hold | None = None
