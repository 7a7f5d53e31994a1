"""What is different about a line of a batch: its price, and that it keeps nobody else waiting."""

from __future__ import annotations

from datetime import datetime

from runner.model import Call, Finding, Kind, Reply, Signal
from runner.settle.stops import in_short, stop_for

BATCH = "batch"
"""The tier under which the answer to a line of a batch is stored and priced."""

HELD_FAULTS = frozenset({"results_gone", "batch_unknown"})
"""The codes of lines that were or may have been executed, and whose results cannot be had: no policy asks, and pays,
them again."""

_OWN_PRICES = frozenset({"flex", "priority", "fast"})


def tier_of(call: Call, named: str | None) -> str | None:
    """The tier of an answer. Lines of a batch say "default", or nothing, and are batch all the same, unless they name
    a tier that has a price of its own."""
    return named if not call.in_batch or named in _OWN_PRICES else BATCH


def signal_of(finding: Finding, reply: Reply, *, max_wait: float, now: datetime) -> Signal:
    """What such a refusal means for the others: only money and access stop them, for each batch has its own pace."""
    stop = None
    if finding.kind in (Kind.NO_MONEY, Kind.NO_ACCESS):
        stop = stop_for(finding, reply, max_wait=max_wait, now=now)
    return Signal(reason=in_short(finding), stop=stop)
