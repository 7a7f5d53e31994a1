"""What the account's queue of batches takes: tokens enqueued for each model, a limit that only refusals tell.

    limit ├── enqueued: the batches that are out ──┼── room ──┤

A refusal for want of room is a wait, never a failure: the first as long as `first_wait`, then twice as long each
time, up to a day. A batch that ends makes room, so that the wait ends there. What the server names as the limit
is believed: a shard larger than that is cut at once. One that is refused again and again, with nothing of ours in the
queue, may be larger than a limit that nobody has named, or others may fill the queue: it waits, and is cut then.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from runner.remote import Failure

LONGEST_WAIT = 24 * 3600.0

QUEUE_FULL = "the account's queue is full"
"""What the record of a shard says that waits for room."""

_NAMED = re.compile(r"\blimit:?\s+([\d,_]{1,20})\s*(?:enqueued)?", re.IGNORECASE)
_SAFETY = 0.95
"""How much of a limit is filled: the server counts tokens, we guess them."""


class Full(NamedTuple):
    """What a refusal for want of room comes to. `wait` is in seconds; `limit` what the server named; `cut` says
    that the shard may never fit, and how many tokens may at the most; `never_fits` that it surely does not, as large as
    it seems to us; `refusals` counts those in a row."""

    wait: float
    limit: int | None
    cut: int | None
    refusals: int = 1
    never_fits: bool = False


class Queue:
    """One model's queue at one account. `limit` is what was learned of it before."""

    def __init__(self, *, first_wait: float, limit: int | None = None) -> None:
        self._first_wait = first_wait
        self._limit = limit
        self._most: int | None = None
        self._refusals = 0

    def room(self, enqueued: int) -> int | None:
        """How many tokens fit beside those enqueued; None where no limit is known."""
        known = [one for one in (self._limit, self._most) if one is not None]
        return max(0, int(min(known) * _SAFETY) - enqueued) if known else None

    def refused(
        self, message: str, *, tokens: int, beside: int, named_wait: float = 0.0, before: int = 0
    ) -> Full:
        """A shard of `tokens`, with so many enqueued `beside` it by us, found no room; nor did it `before`, so often, as
        its record says."""
        limit = limit_in(message)
        if limit is not None:
            self._limit = limit
        self._refusals = max(self._refusals, before)
        wait = min(LONGEST_WAIT, max(named_wait, self._first_wait * 2.0 ** min(self._refusals, 20)))
        self._refusals += 1
        cut = None
        never_fits = limit is not None and tokens > limit
        if limit is not None and tokens > limit:
            cut, self._most = max(1, int(limit * _SAFETY)), None
        elif beside == 0 and self._refusals >= 3:
            cut = self._most = max(1, tokens // 2)
        return Full(wait, limit, cut, self._refusals, never_fits)

    def admitted(self, tokens: int) -> None:
        """A batch of this model and so many tokens is at work: the next refusal waits no longer than the first, and the
        next shard may be twice as large."""
        self._refusals = 0
        if self._most is not None:
            self._most = max(self._most, 2 * tokens)


def too_large(full: Full) -> Failure:
    """Why a row fails for which alone an empty queue has no room."""
    takes = "" if full.limit is None else f", which takes {full.limit:,} tokens"
    return Failure(
        "request_too_large",
        f"this request alone is too large for the account's queue of batches{takes}: shorten it, or ask it with "
        "`runner retry RUN --mode online`",
    )


def limit_in(message: str) -> int | None:
    """The limit that a refusal names, as in "Limit: 90,000 enqueued tokens"; None where it names none."""
    found = _NAMED.search(message)
    if found is None:
        return None
    digits = found[1].replace(",", "").replace("_", "")
    return int(digits) if digits and int(digits) > 0 else None
