"""The parts of an online dispatch, put together for one run: feed, gate, limits, transport, settler, writer.

feed ──▶ gate and limits ──▶ claim in the store ──▶ send ──▶ settle in the store ──▶ gate and limits
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio

from runner import loop, packing, retirement
from runner.allowance import Allowance
from runner.api.account import Account
from runner.budget import Budget
from runner.dispatch.feed import Feed
from runner.dispatch.flight import Sent
from runner.dispatch.gate import Gate
from runner.dispatch.online import Online
from runner.dispatch.pack import Most
from runner.dispatch.wiring import Wiring
from runner.endpoints import ENDPOINTS, with_tier
from runner.errors import Interrupted
from runner.expand import expand
from runner.job import Job
from runner.limiter import Limiter, Load
from runner.model import MODEL_GONE, Call, Reply, Signal
from runner.pricing import Prices, usd
from runner.question import Questions
from runner.rate import Rate
from runner.settle import Policy, Settler
from runner.stop import Stop
from runner.store import runs, tasks, totals
from runner.store.database import Store
from runner.store.faults import DiskFull
from runner.store.runs import Beat, Run
from runner.store.series import Tenure
from runner.store.sharing import Sharing
from runner.store.tasks import Claim
from runner.store.writer import GroupWriter
from runner.structured import Checker
from runner.tokens import Estimates
from runner.turn import WHOLE, Turn, TurnOver, Watch

if TYPE_CHECKING:
    from runner.api.sending import Landed

CONCURRENCY = 1_000
"""The most calls in flight where neither the job nor the command line says how many; the limiter finds how many
of them are of use."""

PART_OF_A_MINUTE = 0.25
"""How much of a minute's limit of tokens one packed call may take."""

BEAT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Asking:
    """What an online dispatch needs to know. `budget` is in pico-dollars; `grace` and `deadline` in seconds;
    `new_models` are those whose last day is to be looked up before the first call; `fresh` says that all is to be
    asked, and paid, again. `turn` says how long it has where it is one way of several."""

    store: Store
    tenure: Tenure
    run: Run
    job: Job
    account: Account
    prices: Prices
    budget: int | None
    concurrency: int | None
    on_ambiguous: str
    grace: float
    new_models: frozenset[str] = frozenset()
    deadline: float = 600.0
    fresh: bool = False
    turn: Turn = WHOLE


def ask(asking: Asking, *, stop: Stop, emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Ask what the run still has to ask; what this start did. Raises the RunnerError that ended it early."""
    return loop.run(_Dispatch(asking, stop, emit).run)


class _Dispatch:
    def __init__(self, asking: Asking, stop: Stop, emit: Callable[[dict[str, Any]], None]) -> None:
        self._asking = asking
        self._stop = stop
        self._emit = emit
        job, prices = asking.job, asking.prices
        with asking.store.read() as connection:
            self._left = totals.unfinished(connection, asking.run.id)
            spent = totals.spent(connection, asking.run.id) if asking.budget is not None else 0
            set_aside = totals.set_aside(connection, asking.run.id)
        self._budget = Budget(asking.budget, spent, set_aside)
        self._allowance = Allowance(
            self._budget,
            longest=job.retry.max_wait,
            unsaved=lambda: self._online.unsaved,
            room=asking.store.room,
            full=self._disk_full,
        )
        self._gate = Gate(time.monotonic, random.random, longest=job.retry.max_wait)
        self._estimates = Estimates()
        self._load = Load()
        self._sharing = Sharing(asking.store.path, asking.tenure.series_id)
        self._settler = self._make_settler()
        self._feed = Feed(
            asking.store,
            asking.run.id,
            Questions(job),
            prices,
            more=self._expand,
            has_failed=self._settler.has_failed,
            most=self._most_of_a_pack,
            estimates=self._estimates,
        )
        self._rate = Rate(time.monotonic())
        self._held_because = ""
        self._watch = Watch(asking.turn)

    async def run(self) -> dict[str, Any]:
        from runner.api.dataplane import transport_for
        from runner.api.descriptors import affordable
        from runner.api.inflow import Inflow

        asking, limits = self._asking, self._asking.job.limits
        ceiling = affordable(asking.concurrency or limits.concurrency or CONCURRENCY)
        self._limiter = Limiter(
            requests=limits.requests_per_minute, tokens=limits.tokens_per_minute, ceiling=ceiling
        )
        self._share_limits()
        self._inflow = Inflow()
        self._writer = GroupWriter(asking.store, asking.tenure, self._on_disk_full)
        try:
            async with transport_for(
                asking.account, concurrency=ceiling, deadline=asking.deadline, inflow=self._inflow
            ) as self._transport:
                self._online = self._make_online()
                await self._look_up_models()
                # Others who share the limits hear of this run before its first call.
                await self._writer.submit(runs.beat, [Beat(asking.run.id, self._progress())])
                await self._drive()
            return self._progress()
        finally:
            with anyio.CancelScope(shield=True):
                await self._writer.close()

    def _make_online(self) -> Online:
        return Online(
            self._feed,
            Wiring(self._claim, self._start, self._settle, time.monotonic, self._inflow),
            gate=self._gate,
            limiter=self._limiter,
            charge=self._charge,
            reserve=self._allowance.reserve,
            on_budget=self._allowance.reached,
            on_exhausted=self._allowance.exhausted,
            told=self._gate_held,
        )

    async def _look_up_models(self) -> None:
        asking, today = self._asking, datetime.now(UTC).date()
        if not asking.new_models:
            return
        for message in await retirement.told(
            self._transport.fetch, asking.new_models, asking.prices, today=today
        ):
            self._emit({"event": "warning", "message": message})

    async def _drive(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._beat)
            try:
                with self._stop.listening(self._on_stop):
                    await self._online.run(grace=self._asking.grace)
            except TurnOver:
                pass
            finally:
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await self._sign_of_life()

    def _make_settler(self) -> Settler:
        return Settler(
            policy_of(self._asking),
            self._asking.prices,
            self._budget,
            random=random.random,
            remaining=self._remaining,
            estimates=self._estimates,
        )

    def _charge(self, call: Call) -> float:
        return self._estimates.charge(call.endpoint, call.model, call.demand, len(call.body))

    def _most_of_a_pack(self) -> Most:
        tokens = min(packing.MOST_TOKENS, self._limiter.tokens_a_minute * PART_OF_A_MINUTE)
        return Most(tokens, self._budget.left)

    async def _claim(self, calls: Sequence[Call]) -> Sequence[int]:
        run, epoch = self._asking.run.id, self._asking.tenure.epoch
        claims = [
            Claim(run, epoch, tuple(one.task_id for one in call.asked), call.worst_case) for call in calls
        ]
        return await self._writer.submit(tasks.claim, claims)

    def _start(self, call: Call, landed: Landed) -> Sent | None:
        if self._settler.known_gone(call):
            landed(MODEL_GONE)
            return None
        self._settler.sending(call)
        body = with_tier(call.body, self._asking.turn.tier)
        return self._transport.start(ENDPOINTS[call.endpoint].path, call.model, body, landed)

    def _settle(self, ended: Sequence[tuple[Call, Reply]]) -> tuple[list[Signal], Awaitable[object]]:
        self._allowance.came(ended)
        signals, settlements = self._settler.settle(ended)
        self._watch.see(signals)
        self._end_turn()
        size = sum(len(reply.body) for _, reply in ended)
        return signals, self._writer.submit(tasks.settle, settlements, size=size)

    def _end_turn(self) -> None:
        if self._watch.is_over(answered=self._settler.tally.answered, now=time.time()):
            self._online.stop(TurnOver(), grace=self._asking.deadline)

    def _remaining(self) -> int:
        tally = self._settler.tally
        return max(1, self._left - tally.answered - tally.failed)

    def _expand(self) -> bool:
        asking = self._asking
        try:
            made = expand(asking.store, asking.tenure, asking.run.id)
        except DiskFull:
            # What is in flight is to be stored still.
            asking.store.release_ballast()
            self._on_disk_full()
            return False
        if made is None:
            return False
        self._left -= made.rows - made.asked
        return True

    async def _beat(self) -> None:
        while True:
            await anyio.sleep(BEAT_SECONDS)
            if await self._sign_of_life():
                self._online.stop(Interrupted("Stopped by `runner cancel`. What is answered is kept."))
            self._end_turn()

    async def _sign_of_life(self) -> bool:
        """Tell how far the run is, here and in the store; whether somebody asked it to stop."""
        progress = self._progress()
        self._emit(progress)
        self._limiter.busy(self._load.beat(time.process_time(), time.monotonic()))
        self._share_limits()
        self._inflow.nudge()
        [stop_asked] = await self._writer.submit(runs.beat, [Beat(self._asking.run.id, progress)])
        return stop_asked

    def _share_limits(self) -> None:
        with self._asking.store.read() as connection:
            runs_asking = self._sharing.runs_asking(connection)
        self._limiter.shared_by(runs_asking, time.monotonic())

    def _progress(self) -> dict[str, Any]:
        tally = self._settler.tally
        done = tally.answered + tally.failed
        rate = self._rate.at(done, time.monotonic())
        left = max(0, self._left - done)
        allowed = self._limiter.calls_a_second
        return {
            "event": "progress",
            "run": self._asking.run.name,
            "rows": self._asking.run.rows_in,
            "done": self._asking.run.rows_in - left,
            "answered": tally.answered,
            "failed": tally.failed,
            "left": left,
            "in_flight": self._online.in_flight,
            "requests": tally.attempts,
            "retries": tally.retries,
            "rate_limited": tally.rate_limited,
            "ambiguous": tally.ambiguous,
            "rows_per_second": round(rate, 2),
            "eta_seconds": round(left / rate) if rate and done >= 3 else None,
            "input_tokens": tally.input_tokens,
            "output_tokens": tally.output_tokens,
            "cost_usd": None if tally.unpriced and not tally.cost else usd(tally.cost),
            "bound_by": self._limiter.bound_by(time.monotonic()),
            "calls_per_second_allowed": allowed and round(allowed, 3),
            "held_for": round(self._gate.seconds_left(), 1),
            "held_because": self._held_because if not self._gate.is_open else "",
        }

    def _gate_held(self, reason: str, seconds: float) -> None:
        if reason != self._held_because or seconds >= 5:
            self._emit(
                {
                    "event": "held",
                    "run": self._asking.run.name,
                    "reason": reason,
                    "seconds": round(seconds, 1),
                }
            )
        self._held_because = reason

    def _on_stop(self, reason: str) -> None:
        flying = self._online.in_flight
        self._emit(
            {
                "event": "stopping",
                "run": self._asking.run.name,
                "reason": reason,
                "in_flight": flying,
                "grace": self._asking.grace,
            }
        )
        self._online.stop(
            Interrupted(f"Stopped ({reason}). What is answered is kept; the same command goes on.")
        )

    def _on_disk_full(self) -> None:
        self._online.stop(self._disk_full())

    def _disk_full(self) -> DiskFull:
        return DiskFull(
            f"The disk of the store {self._asking.store.path} is full. What was answered is kept. Free some "
            "space and run the same command again."
        )


def policy_of(asking: Asking) -> Policy:
    """How what goes wrong with this run's calls is handled."""
    job = asking.job
    return Policy(
        retry=job.retry,
        accepted=job.accepts,
        on_ambiguous=asking.on_ambiguous,
        checker=None if job.schema is None else Checker(job.schema),
        tier=asking.turn.tier,
    )
