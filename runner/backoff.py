"""How long to wait before the next try. Seconds; `random` gives numbers from 0 up to 1."""

from __future__ import annotations

from collections.abc import Callable

_MOST_DOUBLINGS = 60
"""More would only overflow: every sensible cap is reached long before."""


def full_jitter(attempt: int, random: Callable[[], float], *, base: float = 1.0, cap: float) -> float:
    """A row's wait after its failed attempts so far: anything from nothing up to base · 2^attempt, or `cap`.

    Spread over the whole span, so that rows that failed together do not come back together.
    """
    return random() * _span(attempt, base, cap)


def equal_jitter(attempt: int, random: Callable[[], float], *, base: float = 1.0, cap: float) -> float:
    """The gate's wait after the failed probes so far: at least half of base · 2^attempt, or of `cap`.

    Never close to nothing, for a server that is down is not to be asked again at once.
    """
    return (0.5 + 0.5 * random()) * _span(attempt, base, cap)


def pause(
    attempt: int, random: Callable[[], float], *, asked: float | None, base: float = 1.0, cap: float
) -> float:
    """A row's wait where the server may have asked for one: never sooner than asked, but for `cap`."""
    own = full_jitter(attempt, random, base=base, cap=cap)
    return own if asked is None else max(own, min(max(asked, 0.0), cap))


def _span(attempt: int, base: float, cap: float) -> float:
    return max(0.0, min(cap, base * 2.0 ** min(max(attempt, 0), _MOST_DOUBLINGS)))
