"""A reply becomes an outcome, in the store. The only place where a task becomes final.

A paid body is stored in the transaction that settles its task, whatever it turns out to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

from runner.backoff import pause
from runner.budget import Budget
from runner.classify import classify
from runner.endpoints import ENDPOINTS
from runner.job import Retry
from runner.model import (
    Answer,
    Asked,
    Call,
    Finding,
    Kind,
    Outcome,
    Reply,
    Signal,
    TaskState,
)
from runner.outage import Outage
from runner.pricing import Prices
from runner.settle import lines
from runner.settle.alike import Alike
from runner.settle.ended import Ended
from runner.settle.packed import PackReader, refuses_base64, spans
from runner.settle.stops import in_short, stop_for
from runner.settle.tally import Tally
from runner.store.answers import NewAnswer
from runner.store.clock import moment, now
from runner.store.summing import LARGE, Summing
from runner.store.tasks import Settlement
from runner.structured import Checker
from runner.tokens import Estimates

HEALTHY = Signal(healthy=True)

# In CPython 3.11 the members of an enumeration cost as much to name as a call of a function.
_ANSWERED = Kind.ANSWERED.value
_OK, _TO_ANSWERED = Outcome.OK, TaskState.ANSWERED


@dataclass(frozen=True, slots=True)
class Policy:
    """How this start handles what goes wrong. `accepted` are the finish reasons that count as success, None
    where every one does; `on_ambiguous` is retry, hold or fail; `tier` is what calls ask for, None for the usual."""

    retry: Retry
    accepted: frozenset[str] | None
    on_ambiguous: str = "retry"
    checker: Checker | None = None
    tier: str | None = None


class Settler:
    """Settles the calls of one run."""

    def __init__(
        self,
        policy: Policy,
        prices: Prices,
        budget: Budget,
        *,
        random: Callable[[], float],
        remaining: Callable[[], int],
        estimates: Estimates,
        utc: Callable[[], datetime] = lambda: moment(now()),
    ) -> None:
        """`remaining` is how many rows are left to ask; `estimates` learn from what each answered call came to."""
        self._policy = policy
        self._prices = prices
        self._budget = budget
        self._random = random
        self._remaining = remaining
        self._estimates = estimates
        self._utc = utc
        self._outage = Outage()
        self._alike = Alike()
        self._gone: dict[tuple[str, str], Finding] = {}
        self.tally = Tally()

    def settle(self, ended: Sequence[tuple[Call, Reply]]) -> tuple[list[Signal], list[Settlement]]:
        """What some calls that have ended mean for the others, and what is to be stored of them, all of it in one
        transaction."""
        utc = self._utc()
        written: list[Settlement] = []
        signals = [self._judge(call, reply, utc, written) for call, reply in ended]
        return signals, written

    def sending(self, call: Call) -> None:
        """A call is about to leave: what is answered from now on is answered meanwhile."""
        call.since = self._outage.answers

    def has_failed(self, task_id: int) -> bool:
        """Whether this task has failed since it was last answered."""
        return self._outage.failures(task_id) > 0

    def known_gone(self, call: Call) -> bool:
        """Whether this call's model has been refused as unknown: asking again would be in vain."""
        return bool(self._gone) and (call.endpoint, call.model) in self._gone

    def _judge(self, call: Call, reply: Reply, utc: datetime, written: list[Settlement]) -> Signal:
        if reply.fault == "model_gone":
            return self._fail_gone(Ended(call, reply, utc, written))
        if reply.fault == "not_started":
            return self._not_started(Ended(call, reply, utc, written))
        pack = PackReader(call) if len(call.asked) > 1 else None
        finding, answer = classify(
            reply,
            pack or ENDPOINTS[call.endpoint],
            now=utc,
            max_wait=self._policy.retry.max_wait,
            forced_tool=call.forced_tool,
        )
        self.tally.count(finding)
        kept = self._kept(call, reply, answer, pack)
        if answer is not None and pack is None and not call.in_batch:
            assert kept is not None
            return self._answered_alone(call, answer, kept, written)
        one = Ended(call, reply, utc, written, finding, kept)
        match finding.kind:
            case Kind.ANSWERED:
                assert answer is not None
                return self._answered(one, answer, pack.bad if pack is not None else frozenset())
            case Kind.ROW_ERROR | Kind.MODEL_ERROR:
                return self._final(one)
            case Kind.AMBIGUOUS | Kind.NOT_SENT | Kind.TRY_AGAIN:
                return self._failed_this_time(one)
            case _:
                return self._refused_for_all(one)

    def _fail_gone(self, one: Ended) -> Signal:
        one.finding = self._gone[one.call.endpoint, one.call.model]
        self._budget.settle(one.call.worst_case or 0, 0)
        self.tally.failed += len(one.call.asked)
        for asked in one.call.asked:
            one.end(asked, TaskState.FAILED, asked.attempts, outcome=Outcome.NOT_SENT, is_error=True)
        return Signal()

    def _not_started(self, one: Ended) -> Signal:
        self._budget.settle(one.call.worst_case or 0, 0)
        one.finding = Finding(Kind.NOT_SENT, code="not_started", message=one.reply.detail)
        for asked in one.call.asked:
            one.end(asked, TaskState.READY, asked.attempts)
        return Signal()

    def _answered_alone(
        self, call: Call, answer: Answer, kept: NewAnswer, written: list[Settlement]
    ) -> Signal:
        """One question, one answer: what nearly every call comes to, and so in as few steps as there can be."""
        fault = self._take_in(call, answer, kept.cost, 1)
        asked = call.asked[0]
        written.append(
            Settlement(
                call.id,
                asked.task_id,
                _OK,
                _ANSWERED,
                kept.status,
                "",
                kept.request_id,
                _TO_ANSWERED,
                0,
                asked.attempts + 1,
                0,
                answer.finish_reason,
                fault,
                None,
                kept,
                noted=False,
            )
        )
        return HEALTHY

    def _take_in(self, call: Call, answer: Answer, cost: int | None, good: int) -> str | None:
        """So many tasks were answered. What is wrong with their answer, as JSON."""
        self._budget.settle(call.worst_case or 0, cost)
        if not call.in_batch:
            self._outage.success(call.task_id)
            self._estimates.learn(call.endpoint, call.model, call.demand, answer.usage)
        self.tally.add(answer.usage, cost)
        fault = None if self._policy.checker is None else self._fault_of(answer)
        reasons = self._policy.accepted
        if fault is None and (reasons is None or answer.finish_reason in reasons):
            self.tally.answered += good
        else:
            self.tally.failed += good
        self._alike.answered()
        return fault

    def _answered(self, one: Ended, answer: Answer, bad: frozenset[int]) -> Signal:
        call, kept = one.call, one.kept
        fault = self._take_in(call, answer, None if kept is None else kept.cost, len(call.asked) - len(bad))
        for item, tasks in spans(call.asked, besides=bad):
            asked = call.asked[item]
            one.end(
                asked,
                TaskState.ANSWERED,
                asked.attempts + 1,
                item=item,
                finish_reason=answer.finish_reason,
                fault=fault,
                tasks=tasks,
            )
        if bad:
            one.finding = Finding(
                Kind.AMBIGUOUS,
                "bad_vector",
                "the body holds no usable vector for this text",
                one.reply.status,
            )
            self._again(one, [call.asked[item] for item in sorted(bad)], counted=True)
        return HEALTHY

    def _fault_of(self, answer: Answer) -> str | None:
        """What is wrong with a structured answer, as JSON; with several choices, with the first that is."""
        if self._policy.checker is None or answer.finish_reason != "stop":
            return None
        for text in answer.output if isinstance(answer.output, list) else [answer.output]:
            found = self._policy.checker.fault(text if isinstance(text, str) else "")
            if found is not None:
                return orjson.dumps({"code": found[0], "message": found[1]}).decode()
        return None

    def _final(self, one: Ended) -> Signal:
        call, finding = one.call, one.finding
        if not call.in_batch:
            self._outage.success(call.task_id)
        self._budget.settle(call.worst_case or 0, 0 if one.kept is None else one.kept.cost)
        if finding.kind is Kind.MODEL_ERROR:
            self._gone[call.endpoint, call.model] = finding
        elif call.is_packed or refuses_base64(call, finding):
            # Which of its texts it was, or whether it was the form, the next calls find out.
            for asked in call.asked:
                one.end(asked, TaskState.READY, asked.attempts)
            plain = refuses_base64(call, finding)
            return Signal(healthy=True, split=not plain, refuses_base64=plain)
        self.tally.failed += len(call.asked)
        for asked in call.asked:
            one.end(asked, TaskState.FAILED, asked.attempts + 1, is_error=True)
        if finding.kind is Kind.ROW_ERROR and self._alike.refused(finding):
            return Signal(healthy=True, stop=self._alike.stop(finding, one.reply))
        return HEALTHY

    def _failed_this_time(self, one: Ended) -> Signal:
        call, finding = one.call, one.finding
        self._budget.settle(call.worst_case or 0, None if finding.kind is Kind.AMBIGUOUS else 0)
        if one.reply.fault == "abandoned":
            counted, close, release = False, False, False
        elif call.in_batch:
            counted, close, release = True, False, False
        else:
            verdict = self._outage.failure(
                call.task_id,
                outage=finding.outage,
                sent=finding.kind is not Kind.NOT_SENT,
                since=call.since,
                remaining=self._remaining(),
            )
            counted, close, release = verdict.counted, verdict.close, verdict.release
        self._again(one, call.asked, counted=counted)
        missed = call.is_packed and finding.kind is Kind.AMBIGUOUS and one.reply.fault != "abandoned"
        return Signal(hold=close, release=release, missed=missed, reason=in_short(finding))

    def _again(self, one: Ended, tasks: Sequence[Asked], *, counted: bool) -> None:
        """Each of these tasks is asked again, later, unless its attempts are used up or the user says no."""
        ambiguous = one.finding.kind is Kind.AMBIGUOUS
        retry, on_ambiguous = self._policy.retry, self._policy.on_ambiguous
        waits: dict[int, float] = {}
        for asked in tasks:
            attempts = asked.attempts + counted
            to = TaskState.READY
            if ambiguous and (on_ambiguous == "hold" or one.finding.code in lines.HELD_FAULTS):
                to = TaskState.HELD
                self.tally.held += 1
            elif attempts >= retry.attempts or (ambiguous and on_ambiguous == "fail"):
                to = TaskState.FAILED
                self.tally.failed += 1
            else:
                self.tally.retries += 1
            if to is not TaskState.READY:
                self._outage.forget(asked.task_id)
            if one.call.in_batch:
                # The next batch takes long enough, and all that is left of this one is to share it.
                waits[attempts] = 0.0
            elif attempts not in waits:
                # Alike for all: texts that are due one by one could share no request.
                waits[attempts] = pause(attempts, self._random, asked=one.finding.wait, cap=retry.max_wait)
            one.end(asked, to, attempts, is_error=to is not TaskState.READY, wait=waits[attempts])

    def _refused_for_all(self, one: Ended) -> Signal:
        call, finding = one.call, one.finding
        self._budget.settle(call.worst_case or 0, 0)
        max_wait = self._policy.retry.max_wait
        if call.in_batch:
            for asked in call.asked:
                one.end(asked, TaskState.READY, asked.attempts)
            return lines.signal_of(finding, one.reply, max_wait=max_wait, now=one.utc)
        for asked in call.asked:
            one.end(asked, TaskState.READY, asked.attempts)
        if self._policy.tier == "flex" and finding.code == "resource_unavailable":
            # It costs nothing, and says nothing of the limits: the row is asked in another way.
            return Signal(aside=True, reason=in_short(finding))
        stop = stop_for(finding, one.reply, max_wait=max_wait, now=one.utc)
        if stop is not None:
            return Signal(stop=stop)
        return Signal(
            hold=True,
            wait=finding.wait,
            refused_for_speed=finding.kind is Kind.RATE_LIMITED,
            slow_down=finding.code == "slow_down",
            missed=call.is_packed,
            reason=in_short(finding),
        )

    def _kept(
        self, call: Call, reply: Reply, answer: Answer | None, pack: PackReader | None
    ) -> NewAnswer | None:
        """The body of a 200, whatever it holds: it may have been charged."""
        if reply.status != 200:
            return None
        body = reply.body if pack is None or pack.kept is None else pack.kept
        model = tier = usage = cost = None
        if answer is not None:
            model, tier, usage = answer.model, lines.tier_of(call, answer.tier), answer.usage
            if usage is not None:
                cost = self._prices.cost(model or call.model, tier, usage)
                if cost is None and model != call.model:
                    cost = self._prices.cost(call.model, tier, usage)
        return NewAnswer(
            reply.status,
            reply.request_id,
            body,
            model,
            tier,
            usage,
            cost,
            len(call.asked),
            Summing(body) if len(body) >= LARGE else None,
        )
