"""Whether a run may make its next call: by its budget, by what its disk takes, and by the account's limits for a
day."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from runner.budget import Budget
from runner.errors import BadConfiguration, BudgetReached, Paused, RunnerError
from runner.model import Call, Reply
from runner.pricing import usd

SMALL = 256 * 1024
"""Bytes for which any disk has room that a run could start on."""

FIRST_BYTES = 16_384
"""What the answer to one task may take before the first came: a vector of 3,072 numbers in base64."""


class Allowance:
    """Sets aside what calls may cost, and words why a run goes no further. `longest` is how many seconds it would
    wait for a limit to be there again; `unsaved` tells how many tasks' answers are to be stored still, `room` how
    many bytes the disk takes, and `full` makes the error for when it takes no more."""

    def __init__(
        self,
        budget: Budget,
        *,
        longest: float,
        unsaved: Callable[[], int],
        room: Callable[[], int],
        full: Callable[[], RunnerError],
    ) -> None:
        self._budget = budget
        self._longest = longest
        self._unsaved, self._room, self._full = unsaved, room, full
        self._is_full = False
        self._largest = 0
        self._boundless: Call | None = None

    def came(self, ended: Sequence[tuple[Call, Reply]]) -> None:
        """These calls have ended: how large answers are is learned from them."""
        for call, reply in ended:
            if reply.status == 200:
                self._largest = max(self._largest, -(-len(reply.body) // len(call.asked)))

    def reserve(self, call: Call) -> bool:
        """Set the worst case of a call aside; False if the budget, or the disk, has no room for it now."""
        # Whether the disk takes what this call and those in flight may bring: else it would be paid in vain.
        wanted = (self._unsaved() + len(call.asked)) * (self._largest or FIRST_BYTES)
        self._is_full = wanted > SMALL and wanted > self._room()
        if self._is_full:
            return False
        if self._budget.limit is not None and call.worst_case is None:
            self._boundless = call
            return False
        return self._budget.reserve(call.worst_case or 0)

    def reached(self) -> RunnerError:
        """Why a call was refused that will find no more room later either."""
        if self._is_full:
            return self._full()
        assert self._budget.limit is not None
        if self._boundless is not None:
            line, model = self._boundless.asked[0].line, self._boundless.model
            return BadConfiguration(
                f"Line {line}: nothing bounds what this request may cost at {model}, so the budget cannot hold. "
                "It was not sent; what is answered is kept. Run without a budget, or leave such rows out."
            )
        gone, how = self._budget.spent, "spent or at risk"
        if self._budget.reserved:
            gone, how = gone + self._budget.reserved, "spent, at risk or set aside for batches that are out"
        return BudgetReached(
            f"The budget of ${usd(self._budget.limit)} does not allow the next call: ${usd(gone)} "
            f"is {how}, and a call's longest answer could cost more than what is left. Raise --budget, "
            "or allow fewer output tokens, then run the same command again."
        )

    def exhausted(self, seconds: float) -> RunnerError | None:
        """Why a limit for a day that is there again in so many seconds pauses the run; None if it is waited for."""
        if seconds <= self._longest:
            return None
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        return Paused(
            f"The account's limit for the day is used up until {until:%Y-%m-%d %H:%M} UTC. What is answered is "
            "kept. After that, run the same command again."
        )
