"""The course that one batch takes: its end, what becomes of each of its lines, and what its files are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Plan = Callable[[int, int], str]
"""What becomes of the line of that index among so many.

`done` is executed, and the only fate that is. `nowhere` is in neither file. `batch_expired`,
`batch_cancelled`, `500`, `429` and `0` (a status code) stand in the error file.
"""

DONE = "done"
NOWHERE = "nowhere"
EXPIRED = "batch_expired"
CANCELLED = "batch_cancelled"

NULL, EMPTY, GONE = "null", "", "404"
"""What a batch may say of one of its files instead of its id; the last is the id of no file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One entry of a batch's `errors`."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def shown(self) -> dict[str, Any]:
        """The object of the API."""
        return {"code": self.code, "message": self.message, "param": self.param, "line": self.line}


def all_done(index: int, total: int) -> str:
    """Every line is executed."""
    return DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What becomes of one batch.

    `failures` end it at its validation unless it `runs`. `stays` names a state that it never leaves by
    itself. `flattering` counts lines that are nowhere, and those of status 0, as completed. `output` and
    `error` say what it shows of its files, natural where None. With `shows`, it shows that status, and those
    files, for `lingers` looks after its end, and the truth from then on.
    """

    name: str = "plain"
    end: str = "completed"
    plan: Plan = all_done
    failures: tuple[Failure, ...] = ()
    runs: bool = True
    stays: str | None = None
    flattering: bool = False
    output: str | None = None
    error: str | None = None
    shows: str | None = None
    lingers: int = 0


PLAIN = Course()


def share_done(share: float, otherwise: str) -> Plan:
    """The first lines, by this share of them, are executed, the rest meets another fate."""
    return lambda index, total: DONE if index < int(total * share) else otherwise


def expired(share: float) -> Course:
    """The window closes when this share of the lines is done."""
    return Course(name="expired", end="expired", plan=share_done(share, EXPIRED))


def cancelled(share: float) -> Course:
    """Somebody else cancels it when this share of the lines is done."""
    return Course(name="cancelled-partial", end="cancelled", plan=share_done(share, CANCELLED))


def refused(failure: Failure) -> Course:
    """It fails at its validation."""
    return Course(name=failure.code, end="failed", failures=(failure,), runs=False)


def queue_is_full() -> Failure:
    """What a batch fails with where the account's queue has no room for it."""
    message = (
        "Enqueued token limit reached for gpt-6-luna in organization org-fault. Limit: 90,000 enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    )
    return Failure(code="token_limit_exceeded", message=message)


def no_such_file(ident: str) -> Failure:
    """What a batch fails with where its input is not to be found."""
    message = f"Cannot find file {ident}, or organization org-fault does not have access to it."
    return Failure(code="invalid_request", message=message, param="file_id")


ERROR_STATUSES = {1: "500", 4: "429", 7: "0"}


def error_lines() -> Course:
    """Of ten lines three end in the error file: with 500, with 429 and with a status code of 0."""
    return Course(
        name="error-lines",
        plan=lambda index, total: ERROR_STATUSES.get(index % 10, DONE),
        flattering=True,
    )


def missing_row() -> Course:
    """The line in the middle is in neither file, and the counts do not tell."""
    return Course(
        name="missing-row",
        plan=lambda index, total: NOWHERE if index == total // 2 else DONE,
        flattering=True,
    )


def no_files() -> Course:
    """Completed, and nothing to show for it."""
    return Course(name="no-files", plan=lambda index, total: NOWHERE, flattering=True)


def stuck(state: str) -> Course:
    """It never leaves this state by itself."""
    if state not in {"validating", "in_progress", "finalizing", "cancelling"}:
        raise ValueError(f"state {state!r}")
    return Course(name="stuck", stays=state)
