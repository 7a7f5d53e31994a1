"""One batch: the object that the API shows, and what is behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from runner.simulator import chat, embeddings, responses
from runner.simulator.bill import Tokens

ENDPOINTS: Mapping[str, str] = MappingProxyType(
    {module.PATH: module.NAME for module in (responses, chat, embeddings)}
)
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_STAMPED = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
_BEFORE: Mapping[str, str] = MappingProxyType(
    {
        "in_progress": "validating",
        "finalizing": "in_progress",
        "completed": "in_progress",
        "failed": "validating",
        "expired": "in_progress",
        "cancelling": "in_progress",
        "cancelled": "cancelling",
    }
)


class Batch:
    """A batch and its life so far.

    `digest` is its input file's, and `number` says which batch on these bytes it is, from 1. `coming` is 1 where
    it holds a request that no batch before it held. Times are of the injected clocks.
    """

    def __init__(
        self, shown: dict[str, Any], *, lifetime: int | None, digest: bytes, number: int, visible_at: float
    ) -> None:
        stamps = {f"{stamp}_at": None for stamp in _STAMPED}
        self.shown: dict[str, Any] = {**shown, **stamps, "usage": None, "errors": None, "model": None}
        self.lifetime = lifetime
        self.digest = digest
        self.number = number
        self.visible_at = visible_at
        self.coming = 1
        self.cancelled = asyncio.Event()
        self.expired = False
        self.used = Tokens(0)
        self.task: asyncio.Task[None] | None = None
        self.polls = 0
        self.outage_until: float | None = None
        self.late: dict[str, float] = {}
        self.forced: dict[str, Any] = {}

    @property
    def id(self) -> str:
        """The id that the API gives it."""
        return str(self.shown["id"])

    @property
    def status(self) -> str:
        """The state, in the API's word."""
        return str(self.shown["status"])

    @property
    def endpoint_name(self) -> str:
        """The endpoint as calls name it."""
        return ENDPOINTS[self.shown["endpoint"]]

    @property
    def counts(self) -> dict[str, Any]:
        """Its `request_counts`."""
        counts: dict[str, Any] = self.shown["request_counts"]
        return counts

    def enter(self, state: str, now: float) -> None:
        """Goes into a state at this time of day."""
        self.shown["status"] = state
        self.shown[f"{state}_at"] = int(now)

    def cancel(self, now: float) -> None:
        """Begins to be cancelled, at this time of day."""
        self.enter("cancelling", now)
        self.cancelled.set()

    def view(self, clock: float) -> dict[str, Any]:
        """The object as the API shows it now; ids that are late are null, and what is forced is as it is."""
        shown = {**self.shown, "request_counts": dict(self.counts)}
        for name, time in self.late.items():
            if clock < time:
                shown[name] = None
        shown.update(self.forced)
        return shown

    def disfigured(self, manner: str, clock: float) -> dict[str, Any]:
        """The object as an odd poll shows it."""
        shown = self.view(clock)
        if manner == "flap":
            before = _BEFORE.get(self.status)
            if before is not None:
                stamp = f"{self.status}_at"
                shown.update({"status": before, stamp: None, "output_file_id": None, "error_file_id": None})
        elif manner == "unknown":
            shown["status"] = "reticulating"
        elif manner == "counts-down":
            shown["request_counts"] = {word: (count or 0) // 2 for word, count in self.counts.items()}
        elif manner == "counts-null":
            shown["request_counts"] = None
        return shown
