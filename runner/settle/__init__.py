"""A reply becomes an outcome, in the store. The only place where a task becomes final.

A paid body is stored in the transaction that settles its task, whatever it turns out to hold.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import orjson

from runner.backoff import pause
from runner.budget import Budget
from runner.classify import classify
from runner.endpoints import ENDPOINTS
from runner.job import Retry
from runner.model import Answer, Call, Finding, Kind, Outcome, Reply, Signal, TaskState, Usage
from runner.outage import Outage
from runner.pricing import Prices
from runner.settle.stops import in_short, stop_for
from runner.store.clock import moment, now
from runner.store.tasks import NewAnswer, Settlement, checksum
from runner.structured import Checker


@dataclass
class Tally:
    """What this start has done so far: rows settled, tokens, cost in pico-dollars."""

    answered: int = 0
    failed: int = 0
    held: int = 0
    attempts: int = 0
    retries: int = 0
    rate_limited: int = 0
    ambiguous: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    unpriced: int = 0
    codes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Policy:
    """How this start handles what goes wrong. `accepted` are the finish reasons that count as success, None
    where every one does; `on_ambiguous` is retry, hold or fail."""

    retry: Retry
    accepted: frozenset[str] | None
    on_ambiguous: str = "retry"
    checker: Checker | None = None


class Settler:
    """Settles the calls of one run."""

    def __init__(
        self,
        policy: Policy,
        prices: Prices,
        budget: Budget,
        write: Callable[[Settlement], Awaitable[None]],
        *,
        random: Callable[[], float],
        remaining: Callable[[], int],
        utc: Callable[[], datetime] = lambda: moment(now()),
    ) -> None:
        self._policy = policy
        self._prices = prices
        self._budget = budget
        self._write = write
        self._random = random
        self._remaining = remaining
        self._utc = utc
        self._outage = Outage()
        self._sent_at: dict[int, int] = {}
        self._gone: dict[tuple[str, str], Finding] = {}
        self.tally = Tally()

    async def settle(self, call: Call, reply: Reply) -> Signal:
        """Store what came back for a call; what it means for the others."""
        if reply.fault == "model_gone":
            return await self._fail_gone(call)
        finding, answer = classify(
            reply,
            ENDPOINTS[call.endpoint],
            now=self._utc(),
            max_wait=self._policy.retry.max_wait,
            forced_tool=call.forced_tool,
        )
        if reply.fault == "not_started":
            return await self._not_started(call, reply)
        self._count(finding)
        if finding.kind not in (Kind.AMBIGUOUS, Kind.NOT_SENT, Kind.TRY_AGAIN):
            self._sent_at.pop(call.task_id, None)
        kept = self._kept(call, reply, answer)
        match finding.kind:
            case Kind.ANSWERED:
                assert answer is not None
                return await self._answered(call, reply, finding, answer, kept)
            case Kind.ROW_ERROR | Kind.MODEL_ERROR:
                return await self._final(call, reply, finding, kept)
            case Kind.AMBIGUOUS | Kind.NOT_SENT | Kind.TRY_AGAIN:
                return await self._failed_this_time(call, reply, finding, kept)
            case _:
                return await self._refused_for_all(call, reply, finding, kept)

    def sending(self, call: Call) -> None:
        """A call is about to leave: what is answered from now on is answered meanwhile."""
        self._sent_at[call.task_id] = self._outage.answers

    def has_failed(self, task_id: int) -> bool:
        """Whether this task has failed since it was last answered."""
        return self._outage.failures(task_id) > 0

    def known_gone(self, call: Call) -> bool:
        """Whether this call's model has been refused as unknown: asking again would be in vain."""
        return (call.endpoint, call.model) in self._gone

    async def _fail_gone(self, call: Call) -> Signal:
        finding = self._gone[call.endpoint, call.model]
        self._budget.settle(call.worst_case or 0, 0)
        self.tally.failed += 1
        await self._put(
            call,
            None,
            finding,
            TaskState.FAILED,
            outcome=Outcome.NOT_SENT,
            error=_error(finding, call.attempts),
            attempts=call.attempts,
        )
        return Signal()

    async def _not_started(self, call: Call, reply: Reply) -> Signal:
        self._budget.settle(call.worst_case or 0, 0)
        finding = Finding(Kind.NOT_SENT, code="not_started", message=reply.detail)
        await self._put(call, reply, finding, TaskState.READY, attempts=call.attempts)
        return Signal()

    async def _answered(
        self, call: Call, reply: Reply, finding: Finding, answer: Answer, kept: NewAnswer | None
    ) -> Signal:
        self._outage.success(call.task_id)
        self._budget.settle(call.worst_case or 0, None if kept is None else kept.cost)
        fault = self._fault_of(answer)
        reasons = self._policy.accepted
        accepted = fault is None and (reasons is None or answer.finish_reason in reasons)
        self.tally.answered += accepted
        self.tally.failed += not accepted
        self._add_usage(answer.usage, None if kept is None else kept.cost)
        await self._put(
            call,
            reply,
            finding,
            TaskState.ANSWERED,
            attempts=call.attempts + 1,
            answer=kept,
            finish_reason=answer.finish_reason,
            fault=fault,
        )
        return Signal(healthy=True)

    def _fault_of(self, answer: Answer) -> str | None:
        """What is wrong with a structured answer, as JSON; with several choices, with the first that is."""
        if self._policy.checker is None or answer.finish_reason != "stop":
            return None
        for text in answer.output if isinstance(answer.output, list) else [answer.output]:
            found = self._policy.checker.fault(text if isinstance(text, str) else "")
            if found is not None:
                return orjson.dumps({"code": found[0], "message": found[1]}).decode()
        return None

    async def _final(self, call: Call, reply: Reply, finding: Finding, kept: NewAnswer | None) -> Signal:
        self._outage.success(call.task_id)
        self._budget.settle(call.worst_case or 0, 0 if kept is None else kept.cost)
        if finding.kind is Kind.MODEL_ERROR:
            self._gone[call.endpoint, call.model] = finding
        self.tally.failed += 1
        await self._put(
            call,
            reply,
            finding,
            TaskState.FAILED,
            attempts=call.attempts + 1,
            answer=kept,
            error=_error(finding, call.attempts + 1),
        )
        return Signal(healthy=True)

    async def _failed_this_time(
        self, call: Call, reply: Reply, finding: Finding, kept: NewAnswer | None
    ) -> Signal:
        ambiguous = finding.kind is Kind.AMBIGUOUS
        self._budget.settle(call.worst_case or 0, None if ambiguous else 0)
        if reply.fault == "abandoned":
            attempts, close, release = call.attempts, False, False
        else:
            verdict = self._outage.failure(
                call.task_id,
                outage=finding.outage,
                sent=finding.kind is not Kind.NOT_SENT,
                since=self._sent_at.pop(call.task_id, None),
                remaining=self._remaining(),
            )
            attempts, close, release = call.attempts + verdict.counted, verdict.close, verdict.release
        to = TaskState.READY
        error = None
        if ambiguous and self._policy.on_ambiguous == "hold":
            to, error = TaskState.HELD, _error(finding, attempts)
            self.tally.held += 1
        elif attempts >= self._policy.retry.attempts or (ambiguous and self._policy.on_ambiguous == "fail"):
            to, error = TaskState.FAILED, _error(finding, attempts)
            self.tally.failed += 1
        else:
            self.tally.retries += 1
        if to is not TaskState.READY:
            self._outage.forget(call.task_id)
        wait = pause(attempts, self._random, asked=finding.wait, cap=self._policy.retry.max_wait)
        await self._put(call, reply, finding, to, attempts=attempts, answer=kept, error=error, wait=wait)
        return Signal(hold=close, release=release, reason=in_short(finding))

    async def _refused_for_all(
        self, call: Call, reply: Reply, finding: Finding, kept: NewAnswer | None
    ) -> Signal:
        self._budget.settle(call.worst_case or 0, 0)
        await self._put(call, reply, finding, TaskState.READY, attempts=call.attempts, answer=kept)
        stop = stop_for(finding, reply, max_wait=self._policy.retry.max_wait, now=self._utc())
        if stop is not None:
            return Signal(stop=stop)
        return Signal(
            hold=True,
            wait=finding.wait,
            refused_for_speed=finding.kind is Kind.RATE_LIMITED,
            slow_down=finding.code == "slow_down",
            reason=in_short(finding),
        )

    async def _put(
        self,
        call: Call,
        reply: Reply | None,
        finding: Finding,
        to: TaskState,
        *,
        attempts: int,
        outcome: Outcome | None = None,
        answer: NewAnswer | None = None,
        finish_reason: str | None = None,
        fault: str | None = None,
        error: Mapping[str, object] | None = None,
        wait: float = 0.0,
    ) -> None:
        due = int((self._utc().timestamp() + wait) * 1_000_000)
        await self._write(
            Settlement(
                call_id=call.id,
                task_id=call.task_id,
                outcome=outcome or finding.outcome,
                kind=finding.kind.value,
                status=finding.status,
                code=finding.code,
                request_id=reply.request_id if reply is not None else None,
                to=to,
                due_at=due,
                attempts=attempts,
                finish_reason=finish_reason,
                fault=fault,
                error=None if error is None else orjson.dumps(error).decode(),
                answer=answer,
            )
        )

    def _kept(self, call: Call, reply: Reply, answer: Answer | None) -> NewAnswer | None:
        """The body of a 200, whatever it holds: it may have been charged."""
        if reply.status != 200:
            return None
        cost = None
        if answer is not None and answer.usage is not None:
            cost = self._prices.cost(answer.model or call.model, answer.tier, answer.usage)
            if cost is None:
                cost = self._prices.cost(call.model, answer.tier, answer.usage)
        return NewAnswer(
            status=reply.status,
            request_id=reply.request_id,
            body=reply.body,
            checksum=checksum(reply.body),
            model=None if answer is None else answer.model,
            tier=None if answer is None else answer.tier,
            usage=None if answer is None else answer.usage,
            cost=cost,
        )

    def _count(self, finding: Finding) -> None:
        self.tally.attempts += finding.kind is not Kind.NOT_SENT
        self.tally.rate_limited += finding.kind is Kind.RATE_LIMITED
        self.tally.ambiguous += finding.kind is Kind.AMBIGUOUS
        if finding.kind is not Kind.ANSWERED:
            code = finding.code or finding.kind.value
            self.tally.codes[code] = self.tally.codes.get(code, 0) + 1

    def _add_usage(self, usage: Usage | None, cost: int | None) -> None:
        if usage is not None:
            self.tally.input_tokens += usage.input
            self.tally.output_tokens += usage.output
        if cost is None:
            self.tally.unpriced += 1
        else:
            self.tally.cost += cost


def _error(finding: Finding, attempts: int) -> dict[str, object]:
    return {
        "code": finding.code or finding.kind.value,
        "message": finding.message,
        "status": finding.status,
        "attempts": attempts,
    }
