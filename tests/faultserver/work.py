"""The work of one batch: each line executed or not, and the lines of its two files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from .answers import paid_answer
from .behaviour import error_body
from .courses import CANCELLED, DONE, EXPIRED, NOWHERE, Course
from .inputs import Line
from .ledger import Arrival, Ledger
from .own import Refused

MESSAGES = {
    EXPIRED: "This request could not be executed before the completion window expired.",
    CANCELLED: "This request was cancelled with its batch.",
}

FAILED_BODIES = {
    "500": error_body(
        "The server had an error while processing your request.", kind="server_error", code="server_error"
    ),
    "429": error_body(
        "Rate limit reached. Please try again in 1s.", kind="tokens", code="rate_limit_exceeded"
    ),
    "0": b'""',
}


@dataclass
class Results:
    """The lines of the output file and of the error file, without their line ends."""

    output: list[bytes] = field(default_factory=list)
    error: list[bytes] = field(default_factory=list)


Edit = Callable[[Results], None]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a batch's lines come from: the batch's id, the create's number, the endpoint."""

    batch: str
    n: int
    endpoint: str


class Work:
    """Does the lines of a batch in order, by its course. `fates` counts what became of them."""

    def __init__(self, lines: list[Line], course: Course, origin: Origin, ledger: Ledger) -> None:
        self._lines = lines
        self._course = course
        self._origin = origin
        self._ledger = ledger
        self._results = Results()
        self.next = 0
        self.fates: Counter[str] = Counter()
        self.usage: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many lines there are."""
        return len(self._lines)

    @property
    def left(self) -> int:
        """How many lines have met no fate yet."""
        return self.total - self.next

    @property
    def completed(self) -> int:
        """The lines that the batch's counts call completed."""
        more = self.fates[NOWHERE] + self.fates["0"] if self._course.flattering else 0
        return self.fates[DONE] + more

    @property
    def failed(self) -> int:
        """The lines that the batch's counts call failed."""
        return self.next - self.completed - (0 if self._course.flattering else self.fates[NOWHERE])

    def do(self, count: int) -> None:
        """Do the next lines, so many of them."""
        for index in range(self.next, min(self.next + count, self.total)):
            self._meet(index, self._course.plan(index, self.total))

    def give_up(self) -> None:
        """Cancel all lines that are left."""
        for index in range(self.next, self.total):
            self._meet(index, CANCELLED)

    def files(self, edits: tuple[Edit, ...]) -> tuple[bytes, bytes]:
        """The bytes of the output file and of the error file."""
        for edit in edits:
            edit(self._results)
        return joined(self._results.output), joined(self._results.error)

    def _meet(self, index: int, fate: str) -> None:
        line = self._lines[index]
        self.next = index + 1
        if fate == DONE:
            fate = self._ask(index, line)
        elif fate in MESSAGES:
            error = {"code": fate, "message": MESSAGES[fate]}
            self._results.error.append(self._shown(index, line, None, error))
        elif fate != NOWHERE:
            request_id = "" if fate == "0" else self._ident("req_", index)
            response = answered(int(fate), request_id, FAILED_BODIES[fate])
            self._results.error.append(self._shown(index, line, response, None))
        self.fates[fate] += 1

    def _ask(self, index: int, line: Line) -> str:
        """Execute one line; what it has come to, `refused` where the API refuses it."""
        arrival = Arrival(
            self._origin.n,
            1,
            "POST",
            self._origin.endpoint,
            time=time.monotonic(),
            sha=line.sha,
            body=line.body,
            marker=line.marker,
            headers={},
        )
        request_id = self._ident("req_", index)
        try:
            own = paid_answer(arrival, self._ident("", index))
        except Refused as refused:
            response = answered(refused.status, request_id, refused.body)
            self._results.error.append(self._shown(index, line, response, None))
            return "refused"
        facts = {"batch": self._origin.batch, "custom_id": line.custom_id}
        self._ledger.execute(arrival, own.usage, **facts)
        self.usage.update(own.usage)
        response = answered(own.status, request_id, own.body)
        self._results.output.append(self._shown(index, line, response, None))
        return DONE

    def _ident(self, kind: str, index: int) -> str:
        return f"{kind}{self._origin.batch.removeprefix('batch_')}{index:06x}"

    def _shown(self, index: int, line: Line, response: Any, error: Any) -> bytes:
        ident = self._ident("batch_req_", index)
        return orjson.dumps({"id": ident, "custom_id": line.custom_id, "response": response, "error": error})


def answered(status: int, request_id: str, body: bytes) -> dict[str, Any]:
    """The `response` of a line in a file."""
    return {"status_code": status, "request_id": request_id, "body": orjson.Fragment(body)}


def joined(lines: list[bytes]) -> bytes:
    """Lines to a file, each with its end."""
    return b"".join(line + b"\n" for line in lines)
