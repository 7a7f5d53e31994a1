"""One batch, and the object that the API shows of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from .courses import NULL, Course, Failure
from .files import File

WINDOW = 86_400
OVER = frozenset({"completed", "failed", "expired", "cancelled"})
STAMPED = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class Batch:
    """One batch as it stands. `made` is monotonic time, all times shown are Unix seconds.

    `looks` counts how often a client was shown it, `late_looks` those after its end.
    """

    def __init__(self, ident: str, number: int, request: dict[str, Any], course: Course) -> None:
        self.ident = ident
        self.number = number
        self.request = request
        self.course = course
        self.made = time.monotonic()
        self.created_at = int(time.time())
        self.status = "validating"
        self.times: dict[str, int] = {}
        self.failures: tuple[Failure, ...] = ()
        self.model: str | None = None
        self.total = 0
        self.completed = 0
        self.failed = 0
        self.usage: dict[str, int] = {"input": 0, "output": 0, "total": 0}
        self.output: File | None = None
        self.error: File | None = None
        self.looks = 0
        self.late_looks = 0
        self.cancel_wanted = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.status in OVER

    def enter(self, status: str) -> None:
        """Pass into a state, and note when."""
        self.status = status
        self.times.setdefault(status, int(time.time()))

    def shown(self) -> dict[str, Any]:
        """The batch object of the API, as it stands and as its course shows it."""
        shows = self._shows()
        files_shown = self.over and (self.course.shows is None or shows is not None)
        output, error = (self.course.output, self.course.error) if files_shown else (None, None)
        return {
            "id": self.ident,
            "object": "batch",
            "endpoint": self.request["endpoint"],
            "model": self.model,
            "errors": self._errors(),
            "input_file_id": self.request["input_file_id"],
            "completion_window": self.request["completion_window"],
            "status": self.status if shows is None else shows,
            "output_file_id": file_id(output, self.output, f"file-{self.ident[6:]}-output"),
            "error_file_id": file_id(error, self.error, f"file-{self.ident[6:]}-error"),
            "created_at": self.created_at,
            "expires_at": self.created_at + WINDOW,
            **{f"{state}_at": self.times.get(state) for state in STAMPED},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "usage": {
                "input_tokens": self.usage["input"],
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": self.usage["output"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self.usage["total"],
            },
            "metadata": self.request.get("metadata"),
        }

    def _shows(self) -> str | None:
        """The status that the course shows instead of the true one, if it does so now."""
        course = self.course
        return course.shows if self.over and self.late_looks <= course.lingers else None

    def _errors(self) -> dict[str, Any] | None:
        if not self.failures:
            return None
        return {"object": "list", "data": [failure.shown() for failure in self.failures]}


def file_id(state: str | None, file: File | None, gone: str) -> str | None:
    """What a batch says of one of its files."""
    if state is None:
        return None if file is None else file.ident
    if state == NULL:
        return None
    return gone if state else ""
