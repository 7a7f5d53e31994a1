"""How fast rows are done: those of the last half minute."""

from __future__ import annotations

from collections import deque

BEATS = 31


class Rate:
    """Rows a second, told once a second. Times are seconds of a clock that never goes back."""

    def __init__(self, now: float) -> None:
        self._done_at = deque([(now, 0)], maxlen=BEATS)

    def at(self, done: int, now: float) -> float:
        """The rate, now that so many are done."""
        self._done_at.append((now, done))
        since, before = self._done_at[0]
        return (done - before) / max(0.001, now - since)
