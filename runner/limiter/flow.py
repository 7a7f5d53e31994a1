"""One quantity, requests or tokens, kept to a rate. Pure arithmetic with injected time.

Servers enforce a minute's limit in slices of a second, whose beginnings nobody tells. So in no window of one
second, wherever it lies, does more start than one second's worth. An amount larger than that starts when
nothing else is left in the window, and is paid off afterwards, in the windows that follow.
"""

from __future__ import annotations

import math
from collections import deque

SLICE = 1.0
"""Seconds over which servers count."""

GUARD = 0.001
"""Seconds added to each slice, for timers are not exact."""

HOP = 0.05
"""Seconds that everything is put off by once after a refusal: calls do not take equally long to arrive, and a
volley that leaves just when a slice of the server's ends would have a part refused in every slice."""

_START_OF_A_CALL = 0.05
"""The part of a slice that must be free for an amount to start where servers let it overshoot."""

_ROUNDING = 1e-9


class Flow:
    """So much of one quantity a second; None is no limit.

    As long as it is not `strict`, the last amount in a window may overshoot it, and is paid off afterwards:
    no room is left unused before a large one. So with `whole`, for calls, a rate of 8.3 a second lets 9 start
    in 1.08 seconds. Strict, for servers that cut slices exactly, it is 8 in one second.
    """

    __slots__ = ("_log", "_room", "_span", "_sum", "_whole", "rate", "strict")

    def __init__(self, rate: float | None = None, *, whole: bool = False, strict: bool = False) -> None:
        self._whole = whole
        self._log: deque[tuple[float, float]] = deque()
        self._sum = 0.0
        self.strict = strict
        self.set_rate(rate)

    def set_rate(self, rate: float | None) -> None:
        """Follow another rate, a second, from now on; what has started in the last second counts against it."""
        self.rate = rate
        self._room, self._span = math.inf, SLICE + GUARD
        if rate is None:
            return
        self._room = rate * SLICE
        if self._whole:
            calls = math.floor(self._room + _ROUNDING) if self.strict else math.ceil(self._room - _ROUNDING)
            self._room = float(max(1, calls))
            self._span = max(self._span, self._room / rate)

    @property
    def room(self) -> float:
        """How much may start within a slice; infinite without a limit."""
        return self._room

    def keep_strictly(self) -> None:
        """The server refused: keep to whole slices from now on, and away from where they end."""
        self.strict = True
        self._log = deque((at + HOP, amount) for at, amount in self._log)
        self.set_rate(self.rate)

    def wait(self, now: float, amount: float) -> float:
        """Seconds until so much may start; 0 if it may now. Waiting that long is enough, and no less is."""
        if self.rate is None:
            return 0.0
        self._expire(now)
        room = self._room
        needed = min(amount, room if self._whole or self.strict else room * _START_OF_A_CALL)
        over = self._sum + needed - room
        if over <= _ROUNDING * room:
            return 0.0
        for at, started in self._log:
            over -= started
            if over <= _ROUNDING * room:
                return max(0.0, at + self._span - now)
        return 0.0

    def start(self, now: float, amount: float) -> None:
        """So much starts now."""
        self._expire(now)
        log = self._log
        if 0 < amount <= self._room - self._sum and (not log or log[-1][0] <= now):
            self._sum += amount
            log.append((now, amount))
            return
        fits = min(amount, max(0.0, self._room - self._sum))
        self._sum += amount
        if fits > 0 or not log:
            self._enter(now, fits)
        over, place = amount - fits, 0
        while over > _ROUNDING * self._room:
            # What does not fit takes the room of what leaves the window next.
            at, left = log[place]
            self._enter(at + self._span, min(left, over))
            over -= left
            place += 1

    def give_back(self, amount: float) -> None:
        """So much of what started last does not count: it was refused."""
        log, left = self._log, amount
        while left > 0 and log:
            at, started = log.pop()
            self._sum -= started
            if started > left:
                log.append((at, started - left))
                self._sum += started - left
            left -= started

    def used(self, now: float) -> float:
        """What has started within the last slice, debts included."""
        self._expire(now)
        return self._sum

    def fill(self, now: float) -> float:
        """How much of a slice's worth that is, from 0 to 1; 0 without a limit."""
        return min(1.0, self.used(now) / self._room)

    def _enter(self, at: float, amount: float) -> None:
        log = self._log
        place = len(log)
        while place and log[place - 1][0] > at:
            place -= 1
        log.insert(place, (at, amount))

    def _expire(self, now: float) -> None:
        log = self._log
        while log and log[0][0] + self._span <= now + _ROUNDING:
            self._sum -= log.popleft()[1]
        if not log:
            self._sum = 0.0
