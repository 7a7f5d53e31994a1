"""The server's own account of what arrived, what it did, and what it answered: the judge in a test."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from . import account
from .operations import Operation, operation_of

MARKER = re.compile(rb"row=([\w-]+)")

MODELS = "/v1/models"
PAID = frozenset({"/v1/chat/completions", "/v1/responses", "/v1/embeddings"})


class Arrival:
    """One request as it came: `n` counts all of them from 1, `nth` those of this body, `time` is monotonic.

    `sha` is the SHA-256 of the body in hex, `marker` the first `row=<id>` in it. Header names are lower case.
    """

    def __init__(self, n: int, nth: int, method: str, path: str, **rest: Any) -> None:
        self.n = n
        self.nth = nth
        self.method = method
        self.path = path
        self.time: float = rest["time"]
        self.sha: str = rest["sha"]
        self.body: bytes = rest["body"]
        self.marker: str | None = rest["marker"]
        self.headers: Mapping[str, str] = rest["headers"]
        self.query: str = rest.get("query", "")

    @property
    def paid(self) -> bool:
        """Whether doing this costs money."""
        return self.path in PAID

    @cached_property
    def operation(self) -> Operation | None:
        """What the request wants of the Batch API, or None."""
        return operation_of(self.method, self.path)

    @cached_property
    def parsed(self) -> Any:
        """The body as JSON, or None where it is none."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None

    def __repr__(self) -> str:
        return f"<arrival {self.n} {self.path} {self.sha[:8]} nth={self.nth} row={self.marker}>"


class Ledger:
    """What the server saw and did. Safe to read from any thread at any time; what it returns is a copy.

    `file` takes one JSON line for each event; `fsync` makes each survive a power cut. Without `keep` the
    arrivals themselves are not kept, only counted, so that a benchmark's memory stays flat.

    The list of models costs nothing, and clients look at it when they please: `calls("/v1/models")` counts that,
    and nothing else does.
    """

    def __init__(self, *, file: Path | None = None, fsync: bool = False, keep: bool = True) -> None:
        self._changed = threading.Condition()
        self._keep = keep
        self._fsync = fsync
        self._file = None if file is None else os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._arrivals: list[Arrival] = []
        self._notes: list[dict[str, Any]] = []
        self._seen: Counter[str] = Counter()
        self._paths: Counter[str] = Counter()
        self._executed: Counter[str] = Counter()
        self._executed_rows: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._behaviours: Counter[str] = Counter()
        self._usage: Counter[str] = Counter()
        self._n = 0
        self._in_flight = 0
        self._max_in_flight = 0
        self._answered = 0
        self._broken = 0

    @property
    def arrivals(self) -> list[Arrival]:
        """Every request, in the order in which their last byte came."""
        with self._changed:
            return list(self._arrivals)

    @property
    def executed(self) -> Counter[str]:
        """How often each body was executed, and would have been charged, by SHA-256.

        A line of a batch counts by the bytes of its `body` as they stand in the file, so that a request made
        online and in a batch is one body where both send the same bytes.
        """
        with self._changed:
            return Counter(self._executed)

    @property
    def executed_rows(self) -> Counter[str]:
        """How often something was executed for each `row=<id>`, online and in batches together."""
        with self._changed:
            return Counter(self._executed_rows)

    @property
    def refused(self) -> Counter[str]:
        """How often each body came to a paid endpoint and was not executed, by SHA-256."""
        with self._changed:
            return Counter(self._refused)

    @property
    def behaviours(self) -> Counter[str]:
        """How often the server behaved in each way, by the behaviour's name."""
        with self._changed:
            return Counter(self._behaviours)

    @property
    def usage(self) -> Counter[str]:
        """Tokens of all that was executed: input, output, total."""
        with self._changed:
            return Counter(self._usage)

    @property
    def max_in_flight(self) -> int:
        """The most requests that were under way at one time."""
        return self._max_in_flight

    @property
    def in_flight(self) -> int:
        """The requests that have arrived and are not answered yet."""
        return self._in_flight

    @property
    def answered(self) -> int:
        """The requests that are over, however they ended."""
        return self._answered

    @property
    def broken(self) -> int:
        """The requests that never became one: malformed, or left by the client in the middle."""
        return self._broken

    def calls(self, path: str | None = None) -> int:
        """How many requests came to the paid endpoints, or to one path (such as /v1/models)."""
        with self._changed:
            wanted = PAID if path is None else {path}
            return sum(self._paths[one] for one in wanted)

    def noted(self, event: str) -> list[dict[str, Any]]:
        """What was noted of files and batches under one word, in order.

        `uploaded` (file, filename, purpose, bytes, sha), `created` and `ended` (see `creates`, `batches`),
        `downloaded` (file, bytes), `cancelled` (batch), `deleted` (file).
        """
        with self._changed:
            return [dict(note) for note in self._notes if note["event"] == event]

    def creates(self) -> list[dict[str, Any]]:
        """Every batch that came to be, in order; see faultserver.account."""
        with self._changed:
            return account.creates_in(self._notes)

    def batches(self) -> dict[str, dict[str, Any]]:
        """Every batch by its id, with its end where it has ended; see faultserver.account."""
        with self._changed:
            return account.batches_in(self._notes)

    def wait_until(self, true: Callable[[Ledger], bool], timeout: float = 10.0) -> None:
        """Block until the condition holds, looked at after each event; TimeoutError if it never does."""
        with self._changed:
            if not self._changed.wait_for(lambda: true(self), timeout):
                raise TimeoutError(f"after {timeout} s: {self!r}")

    def arrive(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, *, query: str = ""
    ) -> Arrival:
        """Note a request that has come whole."""
        sha = hashlib.sha256(body).hexdigest()
        found = MARKER.search(body)
        marker = found[1].decode() if found else None
        now = time.monotonic()
        with self._changed:
            is_call = path != MODELS
            self._n += is_call
            self._paths[path] += 1
            self._seen[sha] += 1
            arrival = Arrival(
                self._n,
                self._seen[sha],
                method,
                path,
                time=now,
                sha=sha,
                body=body,
                marker=marker,
                headers=headers,
                query=query,
            )
            if self._keep and is_call:
                self._arrivals.append(arrival)
            self._in_flight += is_call
            self._max_in_flight = max(self._max_in_flight, self._in_flight)
            if self._file is not None:
                event = {"event": "arrived", "n": self._n, "nth": arrival.nth, "t": now, "path": path}
                self._write(event | {"sha": sha, "marker": marker})
            self._changed.notify_all()
        return arrival

    def execute(self, arrival: Arrival, usage: Mapping[str, int], **facts: Any) -> None:
        """Note that the work was done, before any byte of the answer leaves.

        A line of a batch is noted as the arrival that it would be online, with further facts.
        """
        with self._changed:
            self._executed[arrival.sha] += 1
            if arrival.marker is not None:
                self._executed_rows[arrival.marker] += 1
            self._usage.update(usage)
            if self._file is not None:
                event = {"event": "executed", "n": arrival.n, "sha": arrival.sha, "marker": arrival.marker}
                self._write(event | {"usage": usage} | facts)
            self._changed.notify_all()

    def note(self, event: str, **facts: Any) -> None:
        """Note what became of a file or a batch."""
        with self._changed:
            note = {"event": event, "t": time.monotonic()} | facts
            self._notes.append(note)
            if self._file is not None:
                self._write(note)
            self._changed.notify_all()

    def refuse(self, arrival: Arrival) -> None:
        """Note that the work was not done."""
        with self._changed:
            self._refused[arrival.sha] += 1

    def answer(self, arrival: Arrival, behaviour: str, status: int | None, *, whole: bool) -> None:
        """Note how it ended; `whole` says that all the bytes meant to be sent were handed over."""
        with self._changed:
            if arrival.path != MODELS:
                self._in_flight -= 1
                self._answered += 1
                self._behaviours[behaviour] += 1
            if self._file is not None:
                event = {"event": "answered", "n": arrival.n, "sha": arrival.sha, "t": time.monotonic()}
                self._write(event | {"behaviour": behaviour, "status": status, "whole": whole})
            self._changed.notify_all()

    def breaks(self) -> None:
        """Note something on a connection that did not become a request."""
        with self._changed:
            self._broken += 1
            self._changed.notify_all()

    def started(self, **facts: Any) -> None:
        """Note in the file that a server begins, with wall and monotonic time."""
        with self._changed:
            if self._file is not None:
                self._write({"event": "started", "wall": time.time(), "t": time.monotonic()} | facts)

    def close(self) -> None:
        """Close the file, if there is one; the counts stay readable."""
        with self._changed:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _write(self, event: dict[str, Any]) -> None:
        assert self._file is not None
        os.write(self._file, orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE))
        if self._fsync:
            os.fsync(self._file)

    def __repr__(self) -> str:
        executed, refused = sum(self._executed.values()), sum(self._refused.values())
        return f"<ledger: {self._n} arrived, {executed} executed, {refused} refused, {self._in_flight} open>"


def read_ledger(file: Path) -> list[dict[str, Any]]:
    """The events of a ledger file so far. A last line still being written is left out."""
    lines = file.read_bytes().split(b"\n")[:-1]
    return [orjson.loads(line) for line in lines]


def executions(file: Path) -> Counter[str]:
    """How often each body was executed according to a ledger file, by SHA-256."""
    return Counter(event["sha"] for event in read_ledger(file) if event["event"] == "executed")
