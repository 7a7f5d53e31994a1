"""How many calls may be in flight, and how soon the next may start. Pure arithmetic; it never sleeps.

`Window` halves what is in flight when the server refuses for speed, and grows it again by one for each full
window of answers. `Pace` keeps a rate that the job file names as a ceiling. Learning the account's own limits
from the headers belongs here too.
"""

from __future__ import annotations


class Window:
    """The number of calls that may be in flight at once."""

    def __init__(self, ceiling: int) -> None:
        self._ceiling = max(1, ceiling)
        self._size = float(self._ceiling)
        self._cut_at = 0
        self._started = 0

    @property
    def size(self) -> int:
        return max(1, int(self._size))

    def start(self) -> int:
        """A call starts; the number it starts under."""
        self._started += 1
        return self._started

    def success(self) -> None:
        self._size = min(float(self._ceiling), self._size + 1.0 / self._size)

    def refused(self, started_as: int) -> None:
        """A call was refused for speed. Those that were in flight at the last cut do not cut again."""
        if started_as > self._cut_at:
            self._size = max(1.0, self._size / 2.0)
            self._cut_at = self._started


class Pace:
    """An even rate of some quantity a minute, with at most one second's worth at once."""

    def __init__(self, per_minute: int | None) -> None:
        self._interval = None if per_minute is None else 60.0 / per_minute
        self._free_at = 0.0

    def wait(self, now: float) -> float:
        """Seconds until the next may start."""
        return 0.0 if self._interval is None else max(0.0, self._free_at - now - 1.0)

    def take(self, now: float, amount: float) -> None:
        """One of `amount` starts at `now`."""
        if self._interval is not None:
            self._free_at = max(now, self._free_at) + amount * self._interval
