"""A start that is refused row after row for the same reason: it is not the rows, and asking on wastes a night."""

from __future__ import annotations

from runner.errors import BadConfiguration
from runner.model import Finding, Reply

ROWS = 20


class Alike:
    """Tells whether the first rows of a start were all refused with the same words, and none was answered."""

    def __init__(self) -> None:
        self._answered = False
        self._words: tuple[int | None, str, str] | None = None
        self._count = 0

    def answered(self) -> None:
        """A row was answered: whatever is refused from now on, it is that row's own."""
        self._answered = True

    def refused(self, finding: Finding) -> bool:
        """A row was refused for good. True if so many were before it, and all alike."""
        words = (finding.status, finding.code, finding.message)
        if self._words is None:
            self._words = words
        if words != self._words:
            self._answered = True
        self._count += 1
        return not self._answered and self._count >= ROWS

    def stop(self, finding: Finding, reply: Reply) -> BadConfiguration:
        """The error that ends the start."""
        request = f", request {reply.request_id}" if reply.request_id else ""
        return BadConfiguration(
            f"The first {self._count} rows were all refused alike, with HTTP {finding.status} {finding.code}{request}: "
            f"{finding.message} Nothing more is asked. Correct the request or the model in the job, or the base "
            "URL, and run the same command again; where the server was at fault, `runner retry RUN` asks the "
            "refused rows again."
        )
