"""The cheapest way to be done by a deadline: flex, then batches, then, when time runs short, the standard price.

    probe ──▶ flex ──▶ batches ──────────────▶ call them off, take in what they did ──▶ standard
      │        what it refuses goes on ▲                  ▲
      └── the limits, so that it is known how long the standard way takes ┘

A way that cannot be had is left out: flex where the model has none, batches where there is no time for one. What is
out is never asked in another way: "never twice" comes before "never late".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from runner.asking import Asking, ask
from runner.batching import Batching, batch
from runner.errors import BatchRefused, BudgetReached
from runner.job import Job
from runner.pricing import Prices
from runner.provider import Provider, provider_of
from runner.stop import Stop
from runner.store import batches, runs, totals
from runner.store.clock import moment
from runner.turn import Turn

CANCEL_SECONDS = 660.0
"""How long a batch may take to end after it was cancelled: ten minutes, the API says, and its files follow."""

PART_OF_THE_TIME = 0.5
"""At most so much of all the time is kept for ends of batches."""

MARGIN = 1.25
PATIENT = 900.0
"""Seconds that a flex call may take."""

LEAST_RATE = 1.0
"""Rows a second that the standard way is taken to do where nothing is known of it."""

WORTH_A_PROBE = 50
"""Rows from which on it is worth one at the standard price to know how fast the others would go."""

Emit = Callable[[dict[str, Any]], None]


def schedule(
    asking: Asking,
    *,
    quarantine: float,
    waits: bool,
    stop: Stop,
    emit: Emit,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Have the run's rows answered by its job's deadline; what this start did. Raises the RunnerError that ended it
    early: NotFinished where batches are out and it was not to wait."""
    return _Schedule(asking, quarantine, waits, stop, emit, clock).run()


def has_flex(job: Job, prices: Prices) -> bool:
    """Whether a job's rows can be asked at the flex price."""
    # The requests of a file are sent as they are; a job that names a tier has chosen.
    return (
        job.endpoint in ("chat", "responses")
        and job.model is not None
        and "service_tier" not in job.request
        and prices.has_tier(job.model, "flex")
    )


def takes_batches(job: Job, provider: Provider) -> bool:
    """Whether a provider's batches take a job's rows, or may take those of a requests file."""
    return job.endpoint is None or job.endpoint in provider.endpoints


def switch_at(began: float, deadline: float, *, left: int, allowed: float | None) -> float:
    """The time at which so many rows that are left must be asked at the standard price, to be done by the deadline.

    Times are in seconds since 1970; the standard way is `allowed` so many rows a second, None where nothing is
    known of it.
    """
    cancelling = min(CANCEL_SECONDS, (deadline - began) * PART_OF_THE_TIME)
    return deadline - cancelling - MARGIN * left / max(LEAST_RATE, allowed or LEAST_RATE)


class _Schedule:
    def __init__(
        self,
        asking: Asking,
        quarantine: float,
        waits: bool,
        stop: Stop,
        emit: Emit,
        clock: Callable[[], float],
    ) -> None:
        self._asking = asking
        self._quarantine = quarantine
        self._waits = waits
        self._stop = stop
        self._emit = emit
        self._clock = clock
        began = moment(asking.run.created_at)
        assert asking.job.deadline is not None
        self._began = began.timestamp()
        self._deadline = asking.job.deadline.at(began).timestamp()
        self._allowed = (asking.run.progress or {}).get("calls_per_second_allowed")
        self._did: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        if (
            self._left()
            and has_flex(self._asking.job, self._asking.prices)
            and self._clock() < self._switch_at()
        ):
            self._tell("flex", "at the batch price, without the wait")
            self._ask(Turn("flex", until=self._switch_at()), deadline=PATIENT)
        if self._is_worth_a_probe():
            self._tell(
                "online", "of which one is asked at the standard price, to learn how fast all would be"
            )
            self._ask(Turn(most=1))
        if self._left() and (self._is_out() or self._takes_batches()) and self._is_time_for_a_batch():
            until = self._switch_at()
            self._tell(
                "batch",
                f"until {_at(until)} at the latest, so that the rest is done by {_at(self._deadline)}",
            )
            self._batch(until)
        if self._left():
            self._tell("online", f"at the standard price, to be done by {_at(self._deadline)}")
            self._ask(Turn())
        return self._did

    def _takes_batches(self) -> bool:
        account = self._asking.account
        provider = provider_of(account.provider, account.address.is_azure, account.api_version is not None)
        return takes_batches(self._asking.job, provider)

    def _is_worth_a_probe(self) -> bool:
        return self._allowed is None and self._left() >= WORTH_A_PROBE and not self._is_out()

    def _is_time_for_a_batch(self) -> bool:
        return self._is_out() or self._clock() < self._switch_at()

    def _switch_at(self) -> float:
        return switch_at(self._began, self._deadline, left=self._left(), allowed=self._allowed)

    def _ask(self, turn: Turn, *, deadline: float = 600.0) -> None:
        try:
            did = ask(replace(self._asking, turn=turn, deadline=deadline), stop=self._stop, emit=self._emit)
        except BudgetReached:
            if not self._has_set_aside():
                raise
            # What the batches that are out leave of the budget is known once they have ended.
            return
        self._allowed = did["calls_per_second_allowed"] or did["rows_per_second"] or self._allowed
        self._add(did)

    def _batch(self, until: float) -> None:
        with self._asking.store.read() as connection:
            run = runs.get(connection, self._asking.run.id)
        batching = Batching(replace(self._asking, run=run), self._quarantine, waits=self._waits, until=until)
        try:
            self._add(batch(batching, stop=self._stop, emit=self._emit))
        except BatchRefused as refused:
            if self._is_out():
                raise
            # There is another way, and rows that are to be done in time.
            self._emit({"event": "warning", "message": str(refused)})

    def _left(self) -> int:
        with self._asking.store.read() as connection:
            return totals.unfinished(connection, self._asking.run.id)

    def _is_out(self) -> bool:
        with self._asking.store.read() as connection:
            return bool(batches.out(connection, self._asking.tenure.series_id))

    def _has_set_aside(self) -> bool:
        with self._asking.store.read() as connection:
            return totals.set_aside(connection, self._asking.run.id) > 0

    def _add(self, did: dict[str, Any]) -> None:
        """Sum up what the ways did in this start."""
        for name in ("answered", "failed", "requests", "retries", "rate_limited", "ambiguous"):
            did[name] += self._did.get(name, 0)
        for name in ("input_tokens", "output_tokens"):
            did[name] += self._did.get(name, 0)
        self._did = did

    def _tell(self, way: str, words: str) -> None:
        left = self._left()
        self._emit({"event": "way", "run": self._asking.run.name, "way": way, "rows": left, "message": words})


def _at(when: float) -> str:
    return f"{datetime.fromtimestamp(when).astimezone():%Y-%m-%d %H:%M:%S %Z}"
