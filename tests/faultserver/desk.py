"""The Batch API of a server: which operation is answered by what, and what it meets before that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from . import behaviour as does
from .batches import Batches
from .batchfaults import BatchFaults
from .behaviour import OK, Behaviour
from .files import Files
from .ledger import Arrival, Ledger
from .own import Own, Refused

POLLS = frozenset({"batches.retrieve", "batches.list"})


class Desk:
    """Files and batches behind one door, with what goes wrong at it.

    `seconds` is how long an unhindered batch takes; `spawn` runs a coroutine for as long as the server runs.
    """

    def __init__(
        self,
        faults: BatchFaults,
        ledger: Ledger,
        server: str,
        *,
        seconds: float,
        spawn: Callable[[Any], None],
    ) -> None:
        self._faults = faults
        self._seen: Counter[str] = Counter()
        self._trouble_ends: float | None = None
        self._files = Files(ledger, server)
        self._batches = Batches(self._files, ledger, server, seconds=seconds, spawn=spawn)

    def fate(self, arrival: Arrival) -> Behaviour:
        """What this request meets, by the faults in force."""
        assert arrival.operation is not None
        name = arrival.operation.name
        if name in POLLS and self._in_trouble(arrival.time):
            return does.server_error()
        fates = self._faults.fates.get(name, ())
        self._seen[name] += 1
        return fates[self._seen[name] - 1] if self._seen[name] <= len(fates) else OK

    def _in_trouble(self, now: float) -> bool:
        if self._trouble_ends is None:
            self._trouble_ends = now + self._faults.trouble
        return now < self._trouble_ends

    def answer(self, arrival: Arrival) -> Own:
        """What an API in health says to an operation on files or batches."""
        assert arrival.operation is not None
        name, ident = arrival.operation
        answers: dict[str, Callable[[], Own]] = {
            "files.create": lambda: self._files.create(arrival),
            "files.list": lambda: self._files.listed(arrival),
            "files.retrieve": lambda: self._files.retrieve(ident),
            "files.content": lambda: self._files.content(ident),
            "files.delete": lambda: self._files.delete(ident),
            "batches.create": lambda: self._batches.create(arrival, self._faults),
            "batches.list": lambda: self._batches.listed(arrival, self._faults),
            "batches.retrieve": lambda: self._batches.retrieve(ident, self._faults),
            "batches.cancel": lambda: self._batches.cancel(ident, self._faults),
        }
        try:
            return answers[name]()
        except Refused as refused:
            return Own(refused.status, refused.body, charged=False, usage={})
