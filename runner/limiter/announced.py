"""The limits that answers' headers speak of, as far as they are known; they may change from answer to answer."""

from __future__ import annotations

import math
from collections.abc import Mapping

from runner.limiter.headers import DAY, MINUTE, QUANTITIES, Told, told

_HEADERS = tuple((name, f"x-ratelimit-limit-{name}") for name in QUANTITIES)


class Announced:
    """What an account's limits are, a minute and a day told apart. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._limits: dict[str, Told] = {}
        self._heard: dict[str, str] = {}
        self._exhausted: dict[str, float] = {}
        self.changed_at = -math.inf
        """When a limit that was known became another."""
        self.is_told = False
        """Whether the server speaks of a limit a minute."""

    @property
    def rates(self) -> dict[str, float]:
        """What each limit of a minute comes to a second."""
        return {name: limit.limit / MINUTE for name, limit in self._limits.items() if limit.window == MINUTE}

    def missing(self, quantity: str) -> float | None:
        """How much less is left of a limit than there is of it, as last heard; None if that is not known."""
        limit = self._limits.get(quantity)
        return None if limit is None or limit.remaining is None else limit.limit - limit.remaining

    def exhausted_until(self, now: float) -> float | None:
        """When a day's limit that is used up is there again, None if none is."""
        if not self._exhausted:
            return None
        until = max(self._exhausted.values(), default=now)
        return until if until > now else None

    def listen(self, now: float, headers: Mapping[str, str], *, whole: bool = False) -> bool:
        """Take in what headers say; whether anything is other than it was. A minute's limit that is known
        already is read again only if asked for `whole`, for this is done with each answer."""
        changed = False
        for name, header in _HEADERS:
            text = headers.get(header)
            if text is None:
                continue
            known = self._limits.get(name)
            settled = known is not None and known.window == MINUTE and self._heard[name] == text
            if settled and not whole:
                continue
            found = told(headers, name)
            if found is None:
                continue
            same = known is not None and known.limit == found.limit
            window = found.window or (known.window if same and known is not None else None) or MINUTE
            self._limits[name] = Told(found.limit, found.remaining, found.reset, window)
            # As long as nothing tells a minute from a day, look again.
            self._heard[name] = text if found.window else ""
            if window == DAY and found.remaining == 0 and found.reset:
                self._exhausted[name] = now + found.reset
            else:
                self._exhausted.pop(name, None)
            if known is not None and not same:
                self.changed_at = now
            changed |= known is None or not same or known.window != window
            self.is_told = any(limit.window == MINUTE for limit in self._limits.values())
        return changed
