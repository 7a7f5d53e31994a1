"""Settling: each kind of reply to its state, its due time, its attempts, its money, and its signal to the others."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from packed_answers import f32, float_body, packed_body
from scene import PRICES, chat_body, ok, refusal

from runner import vectors
from runner.budget import Budget
from runner.errors import AccessRefused, BadConfiguration, MoneyRefused, Paused
from runner.job import Retry
from runner.model import (
    ABANDONED,
    MODEL_GONE,
    NOT_STARTED,
    Asked,
    Call,
    Demand,
    Outcome,
    Reply,
    Signal,
    TaskState,
)
from runner.pricing import Prices
from runner.settle import Policy, Settler
from runner.store.answers import checksum
from runner.store.tasks import Settlement
from runner.structured import Checker
from runner.tokens import Estimates

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
WORST = 1_000_000
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}


def call(number: int = 1, *, attempts: int = 0, model: str = "m", worst_case: int | None = WORST) -> Call:
    return Call(
        asked=(Asked(number, number, f"r{number}", attempts),),
        endpoint="chat",
        model=model,
        body=b"{}",
        forced_tool=False,
        demand=Demand(10, 20),
        worst_case=worst_case,
        id=100 + number,
    )


class Desk:
    """A settler with its budget, and what it has written."""

    def __init__(
        self, *, prices: Prices = PRICES, random: float = 0.5, remaining: int = 100, **policy: Any
    ) -> None:
        self.written: list[Settlement] = []
        self.budget = Budget(10**15)
        policy = {"retry": Retry(), "accepted": frozenset({"stop", "tool_calls"})} | policy
        self.settler = Settler(
            Policy(**policy),
            prices,
            self.budget,
            random=lambda: random,
            remaining=lambda: remaining,
            estimates=Estimates(),
            utc=lambda: NOW,
        )

    def settle(self, one: Call, reply: Reply) -> Signal:
        self.budget.reserve(one.worst_case or 0)
        self.settler.sending(one)
        [signal], written = self.settler.settle([(one, reply)])
        self.written.extend(written)
        return signal

    @property
    def last(self) -> Settlement:
        return self.written[-1]

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.last.error or "null")
        return found

    @property
    def due_in(self) -> float:
        return self.last.due_at / 1_000_000 - NOW.timestamp()


def healthy(desk: Desk) -> None:
    """A success, so that a failure afterwards is one row's own."""
    for number in range(50, 60):
        desk.settle(call(number), ok())


def test_an_answer_is_stored_with_its_body_usage_and_cost() -> None:
    desk = Desk()
    signal = desk.settle(call(attempts=2), ok(chat_body("hi", tokens=(100, 50)), "req_9"))

    one = desk.last
    assert (one.to, one.outcome, one.kind, one.status) == (TaskState.ANSWERED, Outcome.OK, "answered", 200)
    assert (one.call_id, one.task_id, one.attempts, one.finish_reason) == (101, 1, 3, "stop")
    assert one.request_id == "req_9"
    assert one.answer is not None
    assert one.answer.checksum == checksum(one.answer.body)
    assert one.answer.cost == 100 * 10**6 + 50 * 2 * 10**6
    assert signal.healthy
    assert (desk.budget.spent, desk.budget.reserved) == (one.answer.cost, 0)
    assert desk.settler.tally.answered == 1


def test_an_answer_without_a_price_costs_its_worst_case_of_the_budget_and_is_unknown() -> None:
    desk = Desk(prices=Prices.none())
    desk.settle(call(), ok())

    assert desk.last.answer is not None
    assert desk.last.answer.cost is None
    assert desk.budget.spent == WORST
    assert desk.settler.tally.unpriced == 1


def test_a_price_is_found_by_the_asked_model_where_the_answers_own_is_unknown() -> None:
    desk = Desk()
    body = json.loads(chat_body())
    body["model"] = "m-served-under-another-name"
    desk.settle(call(), ok(json.dumps(body).encode()))

    assert desk.last.answer is not None
    assert desk.last.answer.cost is not None
    assert desk.last.answer.model == "m-served-under-another-name"


@pytest.mark.parametrize(
    ("reason", "accepted"), [("stop", True), ("length", False), ("content_filter", False), ("odd", False)]
)
def test_a_finish_reason_that_is_not_accepted_is_kept_and_counted_as_failed(
    reason: str, accepted: bool
) -> None:
    desk = Desk()
    desk.settle(call(), ok(chat_body("cut", reason=reason)))

    assert (desk.last.to, desk.last.finish_reason) == (TaskState.ANSWERED, reason)
    assert desk.last.answer is not None
    assert (desk.settler.tally.answered, desk.settler.tally.failed) == (int(accepted), int(not accepted))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"a": 1}', None),
        (' {"a": 1}\n', None),
        ('{"a": "x"}', "schema_mismatch"),
        ("oops", "invalid_json"),
        ("", "invalid_json"),
        (None, "invalid_json"),
    ],
)
def test_a_structured_answer_is_checked_and_kept_either_way(text: str | None, code: str | None) -> None:
    desk = Desk(checker=Checker(SCHEMA))
    desk.settle(call(), ok(chat_body(text)))

    assert desk.last.to is TaskState.ANSWERED
    assert desk.last.answer is not None
    assert (json.loads(desk.last.fault or "{}").get("code")) == code


def test_each_choice_of_a_structured_answer_is_checked() -> None:
    def several(*texts: str) -> Reply:
        body = json.loads(chat_body())
        body["choices"] = [
            {"index": n, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            for n, text in enumerate(texts)
        ]
        return ok(json.dumps(body).encode())

    desk = Desk(checker=Checker(SCHEMA))
    desk.settle(call(1), several('{"a": 1}', '{"a": 2}'))
    assert desk.last.fault is None
    desk.settle(call(2), several('{"a": 1}', '{"b": 2}'))
    assert json.loads(desk.last.fault or "{}")["code"] == "schema_mismatch"


def test_a_refusal_or_a_cut_answer_is_not_held_against_the_schema() -> None:
    desk = Desk(checker=Checker(SCHEMA))
    desk.settle(call(), ok(chat_body('{"a"', reason="length")))
    assert (desk.last.fault, desk.last.finish_reason) == (None, "length")
    desk.settle(call(), ok(chat_body(None, refusal="I cannot")))
    assert (desk.last.fault, desk.last.finish_reason) == (None, "refusal")


ROW_ERRORS = {
    "400": refusal(400, "invalid_value", "bad value"),
    "422": refusal(422, "", "unprocessable"),
    "413": refusal(413, "", "too large"),
    "context": refusal(400, "context_length_exceeded", "maximum context length is 10 tokens"),
    "too large for the limit": refusal(
        429, "rate_limit_exceeded", "Request too large for m: Limit 10, Requested 90"
    ),
    "policy": refusal(403, "content_policy_violation", "flagged"),
}


@pytest.mark.parametrize("reply", ROW_ERRORS.values(), ids=ROW_ERRORS)
def test_an_error_of_the_row_is_final_at_once(reply: Reply) -> None:
    desk = Desk()
    signal = desk.settle(call(), reply)

    assert (desk.last.to, desk.last.outcome, desk.last.attempts) == (TaskState.FAILED, Outcome.REFUSED, 1)
    assert desk.error["status"] == reply.status
    assert desk.error["attempts"] == 1
    assert desk.error["code"]
    assert desk.error["message"]
    assert not signal.hold
    assert signal.stop is None
    assert desk.budget.spent == desk.budget.reserved == 0


def test_a_model_that_is_gone_fails_its_own_rows_without_asking() -> None:
    desk = Desk()
    gone = refusal(404, "model_not_found", "The model `x` does not exist")
    desk.settle(call(1, model="x"), gone)
    assert desk.last.to is TaskState.FAILED

    assert desk.settler.known_gone(call(2, model="x"))
    assert not desk.settler.known_gone(call(3, model="m"))
    desk.settle(call(2, model="x"), MODEL_GONE)
    assert (desk.last.to, desk.last.outcome, desk.last.attempts) == (TaskState.FAILED, Outcome.NOT_SENT, 0)
    assert desk.error["code"] == "model_not_found"
    assert desk.budget.reserved == desk.budget.spent == 0


AMBIGUOUS = {
    "500": refusal(500, "server_error"),
    "timeout": Reply(None, fault="timeout", detail="silence"),
    "reset": Reply(None, fault="reset", detail="reset"),
    "cut": Reply(None, fault="cut", detail="3 of 10 bytes"),
    "html": ok(b"<html>hello</html>"),
    "cut json": ok(b'{"choices": [{"mess'),
    "no choices": ok(b'{"object": "chat.completion", "choices": []}'),
    "error in a 200": ok(b'{"error": {"message": "oops", "code": "server_error"}}'),
}


@pytest.mark.parametrize("reply", AMBIGUOUS.values(), ids=AMBIGUOUS)
@pytest.mark.parametrize(
    ("policy", "to"), [("retry", TaskState.READY), ("hold", TaskState.HELD), ("fail", TaskState.FAILED)]
)
def test_what_may_have_been_charged_goes_where_the_user_says(
    reply: Reply, policy: str, to: TaskState
) -> None:
    desk = Desk(on_ambiguous=policy)
    healthy(desk)
    spent = desk.budget.spent
    desk.settle(call(), reply)

    assert (desk.last.to, desk.last.outcome, desk.last.attempts) == (to, Outcome.AMBIGUOUS, 1)
    assert desk.budget.spent == spent + WORST
    assert desk.budget.reserved == 0
    assert (desk.last.error is None) == (to is TaskState.READY)


@pytest.mark.parametrize("reply", [one for one in AMBIGUOUS.values() if one.status == 200])
def test_a_200_of_bad_shape_is_stored(reply: Reply) -> None:
    desk = Desk()
    desk.settle(call(), reply)

    assert desk.last.answer is not None
    assert desk.last.answer.body == reply.body


@pytest.mark.parametrize(
    "code", ["rate_limit_exceeded", "insufficient_quota", "server_error", "invalid_prompt"]
)
@pytest.mark.parametrize("form", ["error", "failed"])
def test_no_finding_about_a_200_keeps_its_body_from_being_stored(code: str, form: str) -> None:
    desk = Desk()
    error = {"message": "m", "type": code, "code": code}
    body = {"error": error} if form == "error" else {"object": "response", "status": "failed", "error": error}
    reply = ok(json.dumps(body).encode())
    desk.settle(call(), reply)

    assert desk.last.answer is not None
    assert desk.last.answer.body == reply.body


def test_a_row_is_given_up_after_its_attempts_and_not_before() -> None:
    desk = Desk(retry=Retry(attempts=3))
    for attempt in range(3):
        healthy(desk)
        desk.settle(call(attempts=attempt), refusal(500, "server_error", "boom"))
        assert desk.last.to is (TaskState.FAILED if attempt == 2 else TaskState.READY)
        assert desk.last.attempts == attempt + 1
    assert desk.error == {"code": "server_error", "message": "boom", "status": 500, "attempts": 3}


def test_a_retry_waits_longer_each_time_but_never_longer_than_allowed() -> None:
    desk = Desk(random=0.999, retry=Retry(attempts=99, max_wait=20.0))
    waits = []
    for attempt in range(8):
        healthy(desk)
        desk.settle(call(attempts=attempt), refusal(409, "", "busy"))
        waits.append(desk.due_in)

    assert waits[0] > 0
    assert waits[1] > waits[0]
    assert max(waits) <= 20.0
    assert waits[-1] > 19.0


@pytest.mark.parametrize(("asked", "waits"), [("7", 7.0), ("0.5", 0.5), ("5000", 600.0)])
def test_a_row_waits_as_long_as_the_server_asks_within_reason(asked: str, waits: float) -> None:
    desk = Desk(random=0.0)
    healthy(desk)
    desk.settle(call(), refusal(409, "", "busy", retry_after=asked))

    assert desk.due_in == pytest.approx(waits, abs=0.01)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry_after": "3"}, 3.0),
        ({"retry_after_ms": "1500"}, 1.5),
        ({"retry_after": "Sat, 21 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "1m2s"}, 62.0),
        ({}, None),
    ],
)
def test_too_fast_costs_no_attempt_and_holds_the_gate(headers: dict[str, str], wait: float | None) -> None:
    desk = Desk()
    signal = desk.settle(call(attempts=4), refusal(429, "rate_limit_exceeded", **headers))

    assert (desk.last.to, desk.last.outcome, desk.last.attempts) == (TaskState.READY, Outcome.REFUSED, 4)
    assert desk.due_in <= 0.001
    assert signal.hold
    assert signal.refused_for_speed
    assert signal.wait == (None if wait is None else pytest.approx(wait))
    assert signal.stop is None
    assert signal.reason == "HTTP 429 rate_limit_exceeded"
    assert desk.budget.spent == desk.budget.reserved == 0


def test_overload_holds_the_gate_but_does_not_narrow_the_window() -> None:
    desk = Desk()
    signal = desk.settle(call(attempts=5), refusal(503, "server_is_overloaded", retry_after="9"))

    assert (desk.last.to, desk.last.attempts) == (TaskState.READY, 5)
    assert (signal.hold, signal.refused_for_speed, signal.wait) == (True, False, pytest.approx(9.0))


MONEY = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
]


@pytest.mark.parametrize("code", MONEY)
def test_no_money_stops_the_run_and_fails_no_row(code: str) -> None:
    desk = Desk()
    signal = desk.settle(call(attempts=3), refusal(429, code, "pay"))

    assert isinstance(signal.stop, MoneyRefused)
    assert code in str(signal.stop)
    assert "same command" in str(signal.stop)
    assert (desk.last.to, desk.last.attempts) == (TaskState.READY, 3)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_the_run_and_fails_no_row(status: int) -> None:
    desk = Desk()
    signal = desk.settle(
        call(), refusal(status, "invalid_api_key", "Incorrect API key provided: sk-abc123def456")
    )

    assert isinstance(signal.stop, AccessRefused)
    assert "sk-abc123def456" not in str(signal.stop)
    assert desk.last.to is TaskState.READY


@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_beyond_max_wait_pauses_the_run(status: int) -> None:
    desk = Desk()
    signal = desk.settle(call(), refusal(status, "slow_down", retry_after="7200"))

    assert type(signal.stop) is Paused
    assert "2026-11-21 14:00 UTC" in str(signal.stop)
    assert desk.last.to is TaskState.READY


def test_what_never_left_is_free_and_costs_no_attempt() -> None:
    desk = Desk(on_ambiguous="fail")
    signal = desk.settle(call(attempts=5), Reply(None, fault="connect", detail="refused", sent=False))

    assert (desk.last.to, desk.last.outcome, desk.last.attempts) == (TaskState.READY, Outcome.NOT_SENT, 5)
    assert signal.hold
    assert desk.budget.spent == desk.budget.reserved == 0
    assert desk.settler.tally.attempts == 0


def test_what_was_held_back_is_put_back_at_once() -> None:
    desk = Desk()
    signal = desk.settle(call(attempts=2), NOT_STARTED)

    assert (desk.last.to, desk.last.outcome, desk.last.attempts) == (TaskState.READY, Outcome.NOT_SENT, 2)
    assert desk.due_in <= 0.001
    assert signal == Signal()
    assert desk.settler.tally.attempts == desk.settler.tally.retries == 0
    assert desk.budget.spent == desk.budget.reserved == 0


@pytest.mark.parametrize(
    ("policy", "to"), [("retry", TaskState.READY), ("hold", TaskState.HELD), ("fail", TaskState.FAILED)]
)
def test_what_was_abandoned_may_have_been_charged_but_is_not_the_rows_fault(
    policy: str, to: TaskState
) -> None:
    desk = Desk(on_ambiguous=policy)
    signal = desk.settle(call(attempts=5), ABANDONED)

    assert (desk.last.to, desk.last.outcome, desk.last.attempts) == (to, Outcome.AMBIGUOUS, 5)
    assert not signal.hold
    assert desk.budget.spent == WORST


def test_a_call_without_a_price_reserves_nothing() -> None:
    desk = Desk(prices=Prices.none())
    for reply in (
        ok(),
        refusal(500),
        refusal(429, "rate_limit_exceeded"),
        refusal(400),
        NOT_STARTED,
        ABANDONED,
    ):
        desk.settle(call(worst_case=None), reply)
    assert desk.budget.reserved == 0


def test_the_tally_counts_codes() -> None:
    desk = Desk()
    healthy(desk)
    desk.settle(call(), refusal(429, "rate_limit_exceeded"))
    desk.settle(call(), refusal(500, "server_error"))
    desk.settle(call(), refusal(400, "bad"))

    tally = desk.settler.tally
    assert tally.codes == {"rate_limit_exceeded": 1, "server_error": 1, "bad": 1}
    assert (tally.rate_limited, tally.ambiguous, tally.retries, tally.failed) == (1, 1, 1, 1)


def test_no_message_that_is_stored_holds_what_was_asked() -> None:
    desk = Desk()
    echo = {"detail": [{"loc": ["body", "messages"], "msg": "bad", "type": "x", "input": "my secret prompt"}]}
    desk.settle(call(), Reply(422, {}, json.dumps(echo).encode()))

    assert "secret prompt" not in (desk.last.error or "")


def pack(*, attempts: int = 0, texts: int = 3, first: int = 1, base64: bool = True) -> Call:
    """A packed call; its request asks for base64 of our own accord."""
    return Call(
        asked=tuple(Asked(first + n, first + n, f"r{n}", attempts, n + 1) for n in range(texts)),
        endpoint="embeddings",
        model="m",
        body=json.dumps({"model": "m", "input": ["x"] * texts, "encoding_format": "base64"}).encode(),
        forced_tool=False,
        demand=Demand(10, 0),
        worst_case=WORST,
        id=500,
        added_base64=base64,
    )


VECTORS = [f32(0.1, 0.2), f32(0.3, 0.4), f32(0.5, 0.6)]


def test_a_packed_answer_is_kept_once_and_each_task_points_into_it() -> None:
    desk = Desk()
    signal = desk.settle(pack(attempts=1), ok(packed_body(VECTORS)))

    assert signal.healthy
    [written] = desk.written
    assert (written.to, written.attempts, written.finish_reason) == (TaskState.ANSWERED, 2, "stop")
    assert (written.task_id, written.item, written.tasks) == (1, 0, 3)
    first = written.answer
    assert first is not None
    assert first.items == 3
    assert first.checksum == checksum(first.body)
    assert [bytes(vectors.row(first.body, item)) for item in range(3)] == VECTORS
    assert vectors.trailer(first.body).weights == [1, 2, 3]
    assert first.usage is not None
    assert (first.usage.input, first.cost) == (30, 30 * 10**6)
    assert desk.settler.tally.answered == 3
    assert desk.settler.tally.attempts == 1
    assert desk.budget.spent == 30 * 10**6


def test_a_packed_answer_in_decimals_is_kept_as_it_came() -> None:
    desk = Desk()
    body = float_body(["[0.1,0.2]", "[1,2]", "[-0.5,1e-7]"])
    desk.settle(pack(), ok(body))

    [written] = desk.written
    assert (written.to, written.tasks) == (TaskState.ANSWERED, 3)
    assert written.answer is not None
    assert written.answer.body == body


def test_one_text_without_a_usable_vector_is_asked_again_and_the_others_are_answered() -> None:
    desk = Desk()
    body = float_body(["[0.1,0.2]", '"no"', "[-0.5,1e-7]"])
    desk.settle(pack(), ok(body))

    assert {one.task_id: (one.to, one.item, one.attempts) for one in desk.written} == {
        1: (TaskState.ANSWERED, 0, 1),
        3: (TaskState.ANSWERED, 2, 1),
        2: (TaskState.READY, 0, 1),
    }
    assert [one.answer is not None for one in desk.written] == [True, False, False]
    assert (desk.settler.tally.answered, desk.settler.tally.retries) == (2, 1)


@pytest.mark.parametrize("body", [packed_body(VECTORS[:2]), packed_body(VECTORS + VECTORS), b"{}", b"[]"])
def test_an_answer_with_another_number_of_vectors_is_kept_and_answers_none(body: bytes) -> None:
    desk = Desk()
    desk.settle(pack(), ok(body))

    assert [(one.to, one.outcome, one.attempts) for one in desk.written] == [
        (TaskState.READY, Outcome.AMBIGUOUS, 1)
    ] * 3
    assert desk.written[0].answer is not None
    assert desk.written[0].answer.body == body
    assert desk.settler.tally.ambiguous == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_pack_is_split_and_costs_no_text_an_attempt(status: int) -> None:
    desk = Desk()
    signal = desk.settle(pack(attempts=2), refusal(status, "invalid_request_error", "one is too long"))

    assert signal.split
    assert signal.healthy
    assert [(one.to, one.attempts, one.error) for one in desk.written] == [(TaskState.READY, 2, None)] * 3
    assert desk.settler.tally.failed == 0
    assert desk.budget.spent == desk.budget.reserved == 0


def test_the_last_text_of_a_split_bears_its_error_itself() -> None:
    desk = Desk()
    signal = desk.settle(pack(texts=1), refusal(400, "too_long", "too long"))

    assert not signal.split
    assert (desk.last.to, desk.error["code"]) == (TaskState.FAILED, "too_long")


@pytest.mark.parametrize("texts", [1, 3])
def test_a_server_that_refuses_our_base64_is_asked_again_without(texts: int) -> None:
    desk = Desk()
    refused = refusal(400, "", "encoding_format base64 is not supported")
    signal = desk.settle(pack(texts=texts), refused)
    assert signal.refuses_base64
    assert {one.to for one in desk.written} == {TaskState.READY}

    own = desk.settle(pack(texts=1, base64=False), refused)
    assert not own.refuses_base64
    assert desk.last.to is TaskState.FAILED


def test_a_failed_pack_counts_for_each_of_its_texts_by_its_own_attempts() -> None:
    desk = Desk()
    healthy(desk)
    one = pack()
    one.asked = (Asked(1, 1, None, 0), Asked(2, 2, None, 5), Asked(3, 3, None, 2))
    desk.written.clear()
    desk.settle(one, Reply(500, {}, b"{}"))

    assert [(one.to, one.attempts) for one in desk.written] == [
        (TaskState.READY, 1),
        (TaskState.FAILED, 6),
        (TaskState.READY, 3),
    ]
    assert (desk.settler.tally.failed, desk.settler.tally.retries) == (1, 2)


def test_the_same_refusal_of_the_first_twenty_rows_stops_the_start() -> None:
    desk = Desk()
    refused = refusal(400, "unsupported_parameter", "temperature is not supported", x_request_id="req_7")
    signals = [desk.settle(call(number), refused) for number in range(1, 21)]

    assert [signal.stop for signal in signals[:19]] == [None] * 19
    stop = signals[19].stop
    assert isinstance(stop, BadConfiguration)
    assert "first 20 rows" in str(stop)
    assert "temperature is not supported" in str(stop)
    assert "req_7" in str(stop)
    assert [one.to for one in desk.written] == [TaskState.FAILED] * 20


@pytest.mark.parametrize("other", [ok(), refusal(400, "unsupported_parameter", "another message")])
def test_one_row_that_fares_otherwise_shows_that_it_is_the_rows(other: Reply) -> None:
    desk = Desk()
    refused = refusal(400, "unsupported_parameter", "temperature is not supported")
    signals = [desk.settle(call(number), other if number == 7 else refused) for number in range(1, 60)]
    assert all(signal.stop is None for signal in signals)
