"""After a storm of refusals: one call goes, then others by ones and twos, until all may go again."""

from __future__ import annotations

import math

from runner.limiter.flow import SLICE


class Reopening:
    """One answer does not end a storm: each lets two more in. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._credit = math.inf
        self._credited_at = -math.inf
        self._prober = 0

    @property
    def is_open(self) -> bool:
        """Whether all may go at once."""
        return self._credit == math.inf

    def close(self, now: float, next_ticket: int) -> None:
        """Most was refused: the call of that ticket goes alone."""
        self._credit, self._credited_at, self._prober = 1.0, now, next_ticket

    def wait(self, now: float) -> float:
        """Seconds until one more may start; 0 if it may now."""
        # Not every end of a call is told: one more may try each second.
        return 0.0 if self._credit >= 1 else max(0.0, self._credited_at + SLICE - now)

    def start(self, now: float) -> None:
        """A call starts."""
        if self._credit < math.inf:
            self._credit = max(0.0, self._credit - 1)
            self._credited_at = now

    def answered(self, ticket: int, all_at_once: float) -> None:
        """A call was answered; so many may go at once where nothing is refused."""
        if ticket >= self._prober:
            self._credit += 2
            if self._credit >= all_at_once:
                self._credit = math.inf
