"""One gate for all calls. A failure that is not one row's own holds it; one prober tries; its success opens it.

OPEN ──hold──▶ HELD ──the time is over, one caller enters──▶ PROBING ──healthy──▶ OPEN
                ▲                                               │
                └───────────────────refused or failed───────────┘
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from runner.backoff import equal_jitter

FIRST_HOLD = 1.0
LONGEST_PROBE = 60.0


class Gate:
    """Who may start a call now. Times are seconds of the monotonic clock that is handed in."""

    def __init__(self, clock: Callable[[], float], random: Callable[[], float], *, longest: float) -> None:
        self._clock = clock
        self._random = random
        self._longest = min(longest, LONGEST_PROBE)
        self._open = True
        self._until = 0.0
        self._probing = False
        self._failed_probes = 0
        self._changed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        return self._open

    async def enter(self) -> bool:
        """Wait until a call may start. True for the prober, the one call that finds out for all."""
        while not self._open:
            left = self._until - self._clock()
            if not self._probing and left <= 0:
                self._probing = True
                return True
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), None if self._probing else left)
            except TimeoutError:
                pass
        return False

    def hold(self, wait: float | None, *, prober: bool) -> None:
        """Close the gate, for as long as the server asks where it does, else for longer with each probe in
        vain. Replies to calls that were in flight already lengthen a wait but do not escalate it."""
        if prober:
            self._failed_probes += 1
            self._probing = False
        if wait is None and not (prober or self._open):
            return
        own = equal_jitter(self._failed_probes, self._random, base=FIRST_HOLD, cap=self._longest)
        if wait is None:
            wait = own
        else:
            # A little spread, so that many clients told the same time do not come back as one.
            wait += self._random() * min(1.0, 0.1 * wait)
            if prober and self._failed_probes > 1:
                # The time that the server names did not help before.
                wait = max(wait, own)
        self._open = False
        self._until = max(self._until, self._clock() + wait)
        self._wake()

    def release(self) -> None:
        """The server does its work again."""
        self._open = True
        self._probing = False
        # One answer does not end a storm: what was learned of it is forgotten by halves.
        self._failed_probes //= 2
        self._until = 0.0
        self._wake()

    def give_up_probe(self) -> None:
        """The prober never sent its call: let another try."""
        self._probing = False
        self._wake()

    def seconds_left(self) -> float:
        """How long the gate stays held, 0 if it is open."""
        return 0.0 if self._open else max(0.0, self._until - self._clock())

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
