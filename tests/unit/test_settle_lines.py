"""Settling the lines of a batch: each counts for its own row alone, at the batch price, and holds nobody up."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from scene import chat_body, ok, refusal

from runner.budget import Budget
from runner.dispatch.replies import reply_of, untold
from runner.errors import AccessRefused, BadConfiguration, MoneyRefused
from runner.job import Retry
from runner.model import Asked, Call, Demand, Outcome, Reply, Signal, TaskState
from runner.pricing import Prices
from runner.record.result import ResultLine
from runner.settle import Policy, Settler
from runner.store.tasks import Settlement
from runner.tokens import Estimates

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
WORST = 1_000_000
PRICES = Prices.parse(
    b'{"as_of": "2026-11-01", "models": {"m": {"input": "1", "output": "2", "max_output": 1000,'
    b' "batch": {"input": "0.5", "output": "1"}, "priority": {"input": "3", "output": "6"}}}}',
    "test prices",
)


def line(number: int = 1, *, attempts: int = 0, model: str = "m", **more: Any) -> Call:
    fields = {"worst_case": WORST, "endpoint": "chat", "in_batch": True, "id": 100 + number} | more
    asked = (Asked(number, number, f"r{number}", attempts),)
    return Call(asked=asked, model=model, body=b"", forced_tool=False, demand=Demand(0, None), **fields)


def of_line(status: int | None, body: bytes = b"", error: bytes = b"") -> Reply:
    return reply_of(ResultLine("k", status, "req_1", body, error))


class Desk:
    """A settler with its budget, and what it has written."""

    def __init__(self, **policy: Any) -> None:
        self.written: list[Settlement] = []
        self.budget = Budget(10**15)
        self.estimates = Estimates()
        policy = {"retry": Retry(), "accepted": frozenset({"stop"})} | policy
        self.settler = Settler(
            Policy(**policy),
            PRICES,
            self.budget,
            random=lambda: 0.5,
            remaining=lambda: 100,
            estimates=self.estimates,
            utc=lambda: NOW,
        )

    def settle(self, one: Call, reply: Reply) -> Signal:
        self.budget.reserve(one.worst_case or 0)
        [signal], written = self.settler.settle([(one, reply)])
        self.written.extend(written)
        return signal

    @property
    def last(self) -> Settlement:
        return self.written[-1]

    @property
    def due_in(self) -> float:
        return self.last.due_at / 1_000_000 - NOW.timestamp()


def body_of_tier(tier: str | None) -> bytes:
    return json.dumps({**json.loads(chat_body(tokens=(100, 50))), "service_tier": tier}).encode()


@pytest.mark.parametrize(
    ("named", "kept", "cost"),
    [
        (None, "batch", 100 * 500_000 + 50 * 10**6),
        ("default", "batch", 100 * 500_000 + 50 * 10**6),
        ("auto", "batch", 100 * 500_000 + 50 * 10**6),
        ("batch", "batch", 100 * 500_000 + 50 * 10**6),
        ("priority", "priority", 100 * 3 * 10**6 + 50 * 6 * 10**6),
        ("flex", "flex", None),
    ],
)
def test_an_answer_costs_the_batch_price_unless_it_names_a_dearer_tier(
    named: str | None, kept: str, cost: int | None
) -> None:
    desk = Desk()
    desk.settle(line(attempts=1), ok(body_of_tier(named)))

    one = desk.last
    assert (one.to, one.outcome, one.attempts, one.call_id) == (TaskState.ANSWERED, Outcome.OK, 2, 101)
    assert one.answer is not None
    assert (one.answer.tier, one.answer.cost) == (kept, cost)
    assert (desk.budget.spent, desk.budget.reserved) == (WORST if cost is None else cost, 0)
    assert one.answer.usage is not None
    assert PRICES.cost("m", one.answer.tier, one.answer.usage) == cost, "it is priced again by its tier alone"


def test_an_answer_of_a_call_keeps_the_tier_that_it_names() -> None:
    desk = Desk()
    desk.settle(line(in_batch=False), ok(body_of_tier("default")))

    assert desk.last.answer is not None
    assert (desk.last.answer.tier, desk.last.answer.cost) == ("default", 100 * 10**6 + 50 * 2 * 10**6)


def test_an_answer_teaches_the_estimates_nothing() -> None:
    desk = Desk()
    before = desk.estimates.of("chat", "m", Demand(10, 20), 100)
    for number in range(50):
        desk.settle(line(number), ok(chat_body(tokens=(100_000, 50))))

    assert desk.estimates.of("chat", "m", Demand(10, 20), 100) == before


FAILURES = {
    "500": refusal(500, "server_error"),
    "502": refusal(502),
    "409": refusal(409, "conflict"),
    "status 0": of_line(0, b'""'),
    "no response": of_line(None),
    "null body": of_line(200),
    "text for a body": of_line(200, b'"gone"'),
    "its own error": of_line(None, b"", b'{"code":"server_error","message":"could not be processed"}'),
    "unreported": untold("unreported"),
}


@pytest.mark.parametrize("reply", FAILURES.values(), ids=FAILURES)
def test_a_failure_counts_for_its_row_at_once_however_many_fail(reply: Reply) -> None:
    desk = Desk()
    for number in range(12):
        signal = desk.settle(line(number), reply)

        assert (desk.last.to, desk.last.attempts) == (TaskState.READY, 1)
        assert not signal.hold
        assert signal.stop is None


@pytest.mark.parametrize("reply", FAILURES.values(), ids=FAILURES)
def test_a_row_is_given_up_after_its_attempts(reply: Reply) -> None:
    desk = Desk(retry=Retry(attempts=3))
    desk.settle(line(attempts=2), reply)

    assert (desk.last.to, desk.last.attempts) == (TaskState.FAILED, 3)
    error = json.loads(desk.last.error or "{}")
    assert error["code"]
    assert error["message"]


@pytest.mark.parametrize("name", [name for name in FAILURES if name != "409"])
@pytest.mark.parametrize(("policy", "to"), [("hold", TaskState.HELD), ("fail", TaskState.FAILED)])
def test_what_may_have_been_charged_goes_where_the_user_says(name: str, policy: str, to: TaskState) -> None:
    desk = Desk(on_ambiguous=policy)
    desk.settle(line(), FAILURES[name])

    assert (desk.last.to, desk.last.outcome) == (to, Outcome.AMBIGUOUS)
    assert desk.budget.spent == WORST


@pytest.mark.parametrize("policy", ["retry", "hold", "fail"])
def test_results_that_cannot_be_had_are_held_whatever_the_policy(policy: str) -> None:
    desk = Desk(on_ambiguous=policy)
    desk.settle(line(), untold("results_gone"))

    assert (desk.last.to, desk.last.outcome, desk.last.attempts) == (TaskState.HELD, Outcome.AMBIGUOUS, 1)
    assert json.loads(desk.last.error or "{}")["code"] == "results_gone"
    assert "runner retry" in json.loads(desk.last.error or "{}")["message"]
    assert desk.budget.spent == WORST
    assert desk.settler.tally.held == 1


NOT_RUN = {
    "expired": untold("batch_expired"),
    "cancelled": untold("batch_cancelled"),
    "failed": untold("batch_failed"),
    "its line": of_line(
        None, b"", b'{"code":"batch_expired","message":"This request could not be executed."}'
    ),
    "its line, cancelled": of_line(None, b"", b'{"code":"batch_cancelled","message":"m"}'),
    "with a status": of_line(0, b'{"error":{"code":"batch_expired","message":"m"}}'),
    "with another": refusal(408, "batch_expired"),
    "with a third": refusal(503, "batch_cancelled", "the engine is overloaded"),
}


@pytest.mark.parametrize("reply", NOT_RUN.values(), ids=NOT_RUN)
@pytest.mark.parametrize("policy", ["retry", "hold", "fail"])
def test_a_line_whose_turn_never_came_is_put_back_at_once_and_free(reply: Reply, policy: str) -> None:
    desk = Desk(on_ambiguous=policy)
    signal = desk.settle(line(attempts=5), reply)

    one = desk.last
    assert (one.to, one.outcome, one.kind, one.attempts) == (TaskState.READY, Outcome.REFUSED, "not_run", 5)
    assert desk.due_in <= 0.001
    assert not signal.hold
    assert signal.stop is None
    assert desk.budget.spent == desk.budget.reserved == 0
    assert desk.settler.tally.attempts == 0


@pytest.mark.parametrize(
    "reply",
    [
        refusal(429, "rate_limit_exceeded", "Please try again in 2h."),
        refusal(503, "server_is_overloaded"),
        of_line(None, b"", b'{"code":"rate_limit_exceeded","message":"m"}'),
    ],
    ids=["429", "503", "error"],
)
def test_too_fast_is_put_back_uncounted_and_stops_nobody(reply: Reply) -> None:
    desk = Desk()
    signal = desk.settle(line(attempts=5), reply)

    assert (desk.last.to, desk.last.outcome, desk.last.attempts) == (TaskState.READY, Outcome.REFUSED, 5)
    assert desk.due_in <= 0.001
    assert not signal.hold
    assert signal.stop is None
    assert desk.budget.spent == desk.budget.reserved == 0


@pytest.mark.parametrize(
    ("reply", "stop"),
    [
        (refusal(429, "insufficient_quota", "pay"), MoneyRefused),
        (of_line(None, b"", b'{"code":"billing_hard_limit_reached","message":"pay"}'), MoneyRefused),
        (refusal(401, "invalid_api_key", "no"), AccessRefused),
        (refusal(403, "", "no"), AccessRefused),
    ],
)
def test_money_and_access_stop_the_start_and_fail_no_row(reply: Reply, stop: type[Exception]) -> None:
    desk = Desk()
    signal = desk.settle(line(attempts=3), reply)

    assert isinstance(signal.stop, stop)
    assert (desk.last.to, desk.last.attempts) == (TaskState.READY, 3)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_error_of_the_row_is_final(status: int) -> None:
    desk = Desk()
    desk.settle(line(), refusal(status, "bad", "no"))

    assert (desk.last.to, desk.last.outcome, desk.last.attempts) == (TaskState.FAILED, Outcome.REFUSED, 1)


@pytest.mark.parametrize(
    "reply",
    [
        refusal(404, "model_not_found", "The model `m` does not exist"),
        of_line(None, b"", b'{"code":"model_not_found","message":"The model `m` does not exist"}'),
    ],
)
def test_a_model_that_is_gone_is_known_from_then_on(reply: Reply) -> None:
    desk = Desk()
    desk.settle(line(), reply)

    assert desk.last.to is TaskState.FAILED
    assert desk.settler.known_gone(line(2))


def test_rows_refused_alike_stop_the_start() -> None:
    desk = Desk()
    signals = [desk.settle(line(number), refusal(400, "bad", "no")) for number in range(20)]

    assert [one.stop is not None for one in signals] == [False] * 19 + [True]
    assert isinstance(signals[-1].stop, BadConfiguration)


def test_an_answer_before_them_says_that_it_is_the_rows_own_fault() -> None:
    desk = Desk()
    desk.settle(line(99), ok())

    assert all(desk.settle(line(number), refusal(400, "bad", "no")).stop is None for number in range(30))


@pytest.mark.parametrize(
    "body", [b'"gone"', b"null", b"", b'{"error":{"code":"server_error"}}', b'{"choices":[]}', b"[1]"]
)
def test_the_body_of_a_200_is_kept_whatever_it_holds(body: bytes) -> None:
    desk = Desk()
    desk.settle(line(), of_line(200, body))

    assert desk.last.outcome is Outcome.AMBIGUOUS
    assert desk.last.answer is not None
    assert desk.last.answer.body == body


@pytest.mark.parametrize("embedding", ['"AAAA"', "[]", '["x"]', "null"])
def test_a_bad_vector_is_asked_again(embedding: str) -> None:
    desk = Desk()
    body = b'{"object":"list","model":"m","data":[{"index":0,"embedding":%b}]}' % embedding.encode()
    desk.settle(line(endpoint="embeddings"), of_line(200, body))

    assert (desk.last.to, desk.last.outcome, desk.last.attempts) == (TaskState.READY, Outcome.AMBIGUOUS, 1)
    assert desk.last.answer is not None
    assert desk.last.answer.body == body


def test_a_server_that_takes_no_base64_is_found_out_by_one_line() -> None:
    desk = Desk()
    told = refusal(400, "unsupported", "encoding_format base64 is not supported")
    signal = desk.settle(line(endpoint="embeddings", added_base64=True), told)

    assert signal.refuses_base64
    assert (desk.last.to, desk.last.attempts) == (TaskState.READY, 0)


def test_lines_have_no_part_in_the_gate_of_the_calls() -> None:
    desk = Desk()
    for number in range(20):
        desk.settle(line(number), refusal(502))
    signal = desk.settle(line(90, in_batch=False), ok())
    assert signal.healthy
    signal = desk.settle(line(91, in_batch=False), refusal(500, "server_error"))

    assert not signal.hold
    assert not desk.settler.has_failed(5)
