"""Whether a run may make its next call: by its budget, and by the account's limits for a day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from runner.budget import Budget
from runner.errors import BadConfiguration, BudgetReached, Paused, RunnerError
from runner.model import Call
from runner.pricing import usd


class Allowance:
    """Sets aside what calls may cost, and words why a run goes no further. `longest` is how many seconds it would
    wait for a limit to be there again."""

    def __init__(self, budget: Budget, *, longest: float) -> None:
        self._budget = budget
        self._longest = longest
        self._boundless: Call | None = None

    def reserve(self, call: Call) -> bool:
        """Set the worst case of a call aside; False if the budget has no room for it now."""
        if self._budget.limit is not None and call.worst_case is None:
            self._boundless = call
            return False
        return self._budget.reserve(call.worst_case or 0)

    def reached(self) -> RunnerError:
        """Why a call was refused that will find no more room later either."""
        assert self._budget.limit is not None
        if self._boundless is not None:
            line, model = self._boundless.asked[0].line, self._boundless.model
            return BadConfiguration(
                f"Line {line}: nothing bounds what this request may cost at {model}, so the budget cannot hold. "
                "It was not sent; what is answered is kept. Run without a budget, or leave such rows out."
            )
        return BudgetReached(
            f"The budget of ${usd(self._budget.limit)} does not allow the next call: ${usd(self._budget.spent)} "
            "is spent or at risk, and a call's longest answer could cost more than what is left. Raise --budget, "
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
