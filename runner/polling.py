"""How often a batch is looked at, when its end is believed, and when it has stood still for too long.

A look costs the account nothing but a request, and an answer a moment earlier is worth little to a batch that
takes hours: the pause grows with the batch's age, from the first one to `LONGEST_PAUSE`.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from runner.remote import ENDED, RemoteBatch

LONGEST_PAUSE = 600.0
"""Seconds between two looks at a batch, at the most."""

PART_OF_AGE = 0.1
"""A batch that is so old is looked at again when it is so much older."""

MOST_TROUBLE_PAUSE = 300.0

MISSING = "missing"
"""Our own word for the state of a batch that its server does not know (404)."""

_UNDER_WAY = frozenset({"validating", "in_progress", "finalizing", "cancelling"})

_USUAL_HOURS = {"validating": 1.0, "finalizing": 1.0, "cancelling": 0.5}
_BEYOND_EXPIRY = 6 * 3600.0
_LONG = 30 * 3600.0
NAMED_EVERY = 3600.0
"""Seconds after which a batch that stands still is named again."""


def pause(age: float, first: float) -> float:
    """Seconds until the next look at a batch that is so many seconds old."""
    return min(max(first, LONGEST_PAUSE), max(first, age * PART_OF_AGE))


def pause_in_trouble(failures: int, first: float) -> float:
    """Seconds until the next look after so many in a row that told nothing."""
    return min(max(first, MOST_TROUBLE_PAUSE), first * 2.0 ** min(failures, 16))


class Look(NamedTuple):
    """What a look at a batch is compared by: counts may fall, and words may be new."""

    status: str
    output_file_id: str | None
    error_file_id: str | None

    @classmethod
    def of(cls, remote: RemoteBatch) -> Look:
        return cls(remote.status, remote.output_file_id, remote.error_file_id)


def is_believed(remote: RemoteBatch, before: Look | None) -> bool:
    """Whether a batch that says it has ended has: it names a file, or says the same for a second time."""
    if not remote.has_ended:
        return False
    return bool(remote.output_file_id or remote.error_file_id) or before == Look.of(remote)


def unheard_of(status: str) -> str:
    """What to say of a state that this version does not know; nothing of one that it does."""
    if status in ENDED or status in _UNDER_WAY:
        return ""
    return f'its state is "{status}", which this version does not know: it is looked at until it ends'


def stands_still(status: str, *, for_seconds: float, expires_in: float | None, expires: bool) -> str | None:
    """What is odd about a batch that has said `status` for so long; None where nothing is.

    `expires_in` is the time to its expiry in seconds, where the server has named one; `expires` tells whether
    this provider's batches do.
    """
    usual = _USUAL_HOURS.get(status)
    if usual is not None and for_seconds > usual * 3600.0:
        return f"has been {status} for {hours(for_seconds)}, which usually takes minutes"
    if expires and expires_in is not None and expires_in < -_BEYOND_EXPIRY:
        return f"is still {status}, {hours(-expires_in)} after the time at which it was to expire"
    if expires and expires_in is None and for_seconds > _LONG:
        return f"has been {status} for {hours(for_seconds)}"
    return None


def hours(seconds: float) -> str:
    """An age in words: 45 s, 12m, 3h05m, 2d04h."""
    if seconds < 60:
        return f"{ceil(seconds)} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes}m"
    whole, rest = divmod(minutes, 60)
    return f"{whole}h{rest:02d}m" if whole < 48 else f"{whole // 24}d{whole % 24:02d}h"
