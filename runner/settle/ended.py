"""A call that has ended, and what is written of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import orjson

from runner.model import OUTCOME_OF_KIND, Asked, Call, Finding, Kind, Outcome, Reply, TaskState
from runner.store.answers import NewAnswer
from runner.store.tasks import Settlement

_UNREAD = Finding(Kind.NOT_SENT)


@dataclass(slots=True)
class Ended:
    """A call that has ended, what its reply was found to mean, and what is to be written of its tasks."""

    call: Call
    reply: Reply
    utc: datetime
    written: list[Settlement]
    finding: Finding = _UNREAD
    kept: NewAnswer | None = None

    def end(
        self,
        asked: Asked,
        to: TaskState,
        attempts: int,
        *,
        outcome: Outcome | None = None,
        item: int = 0,
        finish_reason: str | None = None,
        fault: str | None = None,
        is_error: bool = False,
        wait: float = 0.0,
        tasks: int = 1,
    ) -> None:
        """This task goes there, and so many in all that are numbered after it. The first to end brings the answer, if
        there is one to keep."""
        finding, kept = self.finding, self.kept
        self.kept = None
        self.written.append(
            Settlement(
                self.call.id,
                asked.task_id,
                outcome or OUTCOME_OF_KIND[finding.kind],
                finding.kind.value,
                finding.status,
                finding.code,
                self.reply.request_id,
                to,
                int((self.utc.timestamp() + wait) * 1_000_000),
                attempts,
                item,
                finish_reason,
                fault,
                orjson.dumps(_error(finding, attempts)).decode() if is_error else None,
                kept,
                tasks,
                noted=self.call.in_batch or to is not TaskState.ANSWERED,
            )
        )


def _error(finding: Finding, attempts: int) -> dict[str, object]:
    return {
        "code": finding.code or finding.kind.value,
        "message": finding.message,
        "status": finding.status,
        "attempts": attempts,
    }
