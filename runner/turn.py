"""A turn: one way of asking among several, and when it has done its part."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from runner.model import Signal

MOST_ASIDE = 20
"""When so many of twice as many calls were refused by a tier that has no room, it is asked no more."""


class TurnOver(Exception):
    """This way of asking has done its part; what is left is asked in another."""


class Turn(NamedTuple):
    """How long a way of asking has its turn: until that time, in seconds since 1970, or that many answers. `tier`
    is the service tier that its calls ask for, None for the usual one. None bounds nothing."""

    tier: str | None = None
    until: float | None = None
    most: int | None = None


WHOLE = Turn()
"""The turn of what is the only way."""


class Watch:
    """Watches over a turn."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._aside: deque[bool] = deque(maxlen=2 * MOST_ASIDE)

    def see(self, signals: Sequence[Signal]) -> None:
        """These calls have ended."""
        if self._turn.tier is not None:
            self._aside.extend(signal.aside for signal in signals)

    def is_over(self, *, answered: int, now: float) -> bool:
        """Whether the turn is over, with so many rows answered in it."""
        _, until, most = self._turn
        return (
            sum(self._aside) >= MOST_ASIDE
            or (most is not None and answered >= most)
            or (until is not None and now >= until)
        )
