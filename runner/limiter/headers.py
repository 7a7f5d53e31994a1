"""What an answer's headers say of the account's limits. Any text is taken; none raises.

    x-ratelimit-limit-tokens: 2000000      how much in a window; 0, -1 and garbage say nothing
    x-ratelimit-remaining-tokens: 1999840  how much is left
    x-ratelimit-reset-tokens: 5ms          until all of it is there again

Whether the window is a minute or a day no header says: it follows from limit x reset / (limit - remaining).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

QUANTITIES = ("requests", "tokens", "project-tokens")
MINUTE = 60.0
DAY = 86_400.0

_BEYOND_A_MINUTE = 120.0
"""A reset above this is no minute's, even for a bucket that is in debt."""

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(ms|us|µs|μs|ns|d|h|m|s)")
_SECONDS = {
    "d": DAY,
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ns": 1e-9,
}
_LONGEST = 64
"""Characters of a value worth reading."""


@dataclass(frozen=True, slots=True)
class Told:
    """One limit as an answer tells it: `remaining` of `limit`, all of it back in `reset` seconds.

    `window` is 60 or 86,400 seconds, None where these values fit both; `remaining` and `reset` are None where
    the server does not say.
    """

    limit: float
    remaining: float | None
    reset: float | None
    window: float | None


def told(headers: Mapping[str, str], quantity: str) -> Told | None:
    """What lower-case headers say of `requests`, `tokens` or `project-tokens`, None if nothing usable."""
    limit = _number(headers.get(f"x-ratelimit-limit-{quantity}"))
    if limit is None or limit <= 0:
        return None
    remaining = _number(headers.get(f"x-ratelimit-remaining-{quantity}"))
    if remaining is not None and not 0 <= remaining <= limit:
        remaining = None
    reset = duration(headers.get(f"x-ratelimit-reset-{quantity}"))
    return Told(limit, remaining, reset, _window(limit, remaining, reset))


def duration(text: str | None) -> float | None:
    """Seconds of a Go-style duration such as 6m0s, 20ms or 1h2m3.5s, or of a bare number; None if neither."""
    plain = _number(text)
    if plain is not None:
        return plain if plain >= 0 else None
    text = (text or "")[:_LONGEST].strip()
    total, place = 0.0, 0
    while place < len(text):
        part = _PART.match(text, place)
        if part is None:
            return None
        total += float(part[1]) * _SECONDS[part[2]]
        place = part.end()
    return total if place and math.isfinite(total) else None


def _window(limit: float, remaining: float | None, reset: float | None) -> float | None:
    if reset is None:
        return None
    if reset > _BEYOND_A_MINUTE:
        return DAY
    if not remaining or remaining >= limit:
        # Nothing used, or nothing left: some servers then tell when the next call may pass, not when all is back.
        return None
    whole = limit * reset / (limit - remaining)
    # Buckets tell the window to within their rounding; fixed windows tell any number, but a short reset.
    return DAY if 0.5 * DAY <= whole <= 1.5 * DAY else MINUTE


def _number(text: str | None) -> float | None:
    try:
        value = float(text[:_LONGEST]) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
