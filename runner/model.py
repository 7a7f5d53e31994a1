"""The words: rows, tasks, calls, attempts, answers, their states and the ways from one to the next.

A task, one question of a series (`TaskState`):

    READY ──claim──▶ IN_FLIGHT ──answer──▶ ANSWERED      stored in the same transaction as its body
      │ ▲ ▲              │
      │ │ └─put back─────┤                               refused, not sent, or ambiguous: a later due time
      │ │                ├──hold────▶ HELD                ambiguous, and the user wants to be asked
      │ │                └──fail────▶ FAILED              an error that asking again cannot mend
      │ └────retry────────────────────┘  (also from HELD and ANSWERED: `runner retry`)
      └──plan──▶ BATCHED ──▶ ANSWERED, READY, HELD or FAILED, as from IN_FLIGHT, when its batch is collected

    state      set by                  leaves it                              after a crash
    READY      expand, put back        claim, once its due time has come      stays
    IN_FLIGHT  claim (before sending)  settle                                 ambiguous: recover puts it back
    BATCHED    plan (before uploading) settle, or its batch comes to nothing  stays: its batch goes on
    HELD       settle                  `runner retry`                         stays
    ANSWERED   settle                  only by `runner retry` or `forget`     stays, with its body
    FAILED     settle                  `runner retry`, or a later run         stays

A run (`RunState`):

    INGESTING ──▶ ACTIVE ──▶ FINISHED ──retry──▶ ACTIVE
        │            └──cancel──▶ CANCELLED ──the same command──▶ ACTIVE
        └──bad lines──▶ REJECTED ──▶ INGESTING

An attempt ends as one `Outcome`. Only AMBIGUOUS can cost twice. An attempt online that ended OK is written down as its
answer, which its tasks point to, and as an attempt of its own once `runner retry` lets them point there no more.

What is made for each row or call is a struct of msgspec: a fifth of the time that a named tuple takes. No ring of
references goes through one, so that the garbage collector need not look at it (`gc=False`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import msgspec


class TaskState(StrEnum):
    """Where a task stands; drawn at the top of this module."""

    READY = "ready"
    IN_FLIGHT = "in_flight"
    BATCHED = "batched"
    HELD = "held"
    ANSWERED = "answered"
    FAILED = "failed"


TASK_TRANSITIONS: Mapping[TaskState, frozenset[TaskState]] = MappingProxyType(
    {
        TaskState.READY: frozenset({TaskState.IN_FLIGHT, TaskState.BATCHED}),
        TaskState.IN_FLIGHT: frozenset(
            {TaskState.READY, TaskState.HELD, TaskState.ANSWERED, TaskState.FAILED}
        ),
        TaskState.BATCHED: frozenset({TaskState.READY, TaskState.HELD, TaskState.ANSWERED, TaskState.FAILED}),
        TaskState.HELD: frozenset({TaskState.READY}),
        TaskState.ANSWERED: frozenset({TaskState.READY}),
        TaskState.FAILED: frozenset({TaskState.READY}),
    }
)


class RunState(StrEnum):
    """Where a run stands; drawn at the top of this module."""

    INGESTING = "ingesting"
    REJECTED = "rejected"
    ACTIVE = "active"
    FINISHED = "finished"
    CANCELLED = "cancelled"


RUN_TRANSITIONS: Mapping[RunState, frozenset[RunState]] = MappingProxyType(
    {
        RunState.INGESTING: frozenset({RunState.ACTIVE, RunState.REJECTED}),
        RunState.REJECTED: frozenset({RunState.INGESTING}),
        RunState.ACTIVE: frozenset({RunState.FINISHED, RunState.CANCELLED}),
        RunState.FINISHED: frozenset({RunState.ACTIVE}),
        RunState.CANCELLED: frozenset({RunState.ACTIVE}),
    }
)


class Outcome(StrEnum):
    """How one attempt ended, as far as paying for it goes."""

    NOT_SENT = "not_sent"
    """No byte of the request reached the server: asking again is free."""
    REFUSED = "refused"
    """The server answered that it did not execute the request."""
    OK = "ok"
    """A full answer of the right shape; it is stored."""
    AMBIGUOUS = "ambiguous"
    """Sent, and no full valid answer: it may have been executed and charged."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens as the API counts them. `input` includes cached and cache-write tokens, `output` includes
    reasoning tokens."""

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    total: int = 0


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What came back from one call, before anybody says what it means.

    `status` is None where no complete HTTP answer came; `fault` then says why ("connect", "timeout",
    "reset", "cut", "too_large", "protocol"; "not_started", "model_gone" and "abandoned" are our own doing)
    and `sent` whether any byte of the request may have reached the server. Header names are lower case.
    `elapsed` is seconds from send to last byte.
    """

    status: int | None
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""
    fault: str | None = None
    detail: str = ""
    sent: bool = True
    elapsed: float = 0.0

    @property
    def request_id(self) -> str | None:
        return self.headers.get("x-request-id") or self.headers.get("apim-request-id")


NOT_STARTED = Reply(status=None, fault="not_started", detail="held back before it was sent", sent=False)
MODEL_GONE = Reply(status=None, fault="model_gone", detail="its model was refused before", sent=False)
ABANDONED = Reply(status=None, fault="abandoned", detail="the run stopped while it waited for the answer")


class Kind(StrEnum):
    """What a reply means for its row, its model, the run."""

    ANSWERED = "answered"
    """A 200 whose body has the shape of an answer."""
    ROW_ERROR = "row_error"
    """Final for this row at once: asking again gives the same (400, 422, context length ...)."""
    MODEL_ERROR = "model_error"
    """Final for every row of this model (model_not_found)."""
    TRY_AGAIN = "try_again"
    """Refused for a reason of the moment; counts among the row's attempts (408, 409)."""
    RATE_LIMITED = "rate_limited"
    """429 for speed: holds the gate for all, costs no row an attempt."""
    OVERLOADED = "overloaded"
    """The server says it is overloaded and has not executed the request; holds the gate for all."""
    NO_MONEY = "no_money"
    """The account is out of money or at its spending limit: the run pauses."""
    NO_ACCESS = "no_access"
    """The key or a permission is refused: the run stops."""
    AMBIGUOUS = "ambiguous"
    """Sent, and no full valid answer."""
    NOT_SENT = "not_sent"
    """The request never left."""
    NOT_RUN = "not_run"
    """A line of a batch that ended before it was its turn (batch_expired, batch_cancelled); costs no attempt."""


OUTCOME_OF_KIND: Mapping[Kind, Outcome] = MappingProxyType(
    {
        Kind.ANSWERED: Outcome.OK,
        Kind.ROW_ERROR: Outcome.REFUSED,
        Kind.MODEL_ERROR: Outcome.REFUSED,
        Kind.TRY_AGAIN: Outcome.REFUSED,
        Kind.RATE_LIMITED: Outcome.REFUSED,
        Kind.OVERLOADED: Outcome.REFUSED,
        Kind.NO_MONEY: Outcome.REFUSED,
        Kind.NO_ACCESS: Outcome.REFUSED,
        Kind.AMBIGUOUS: Outcome.AMBIGUOUS,
        Kind.NOT_SENT: Outcome.NOT_SENT,
        Kind.NOT_RUN: Outcome.REFUSED,
    }
)


class Finding(msgspec.Struct, frozen=True, gc=False):
    """What a reply means. `wait` is how long the server asks us to wait, in seconds, where it says so.
    `outage` marks the failures of a gateway or a whole server, as opposed to those of one request."""

    kind: Kind
    code: str = ""
    message: str = ""
    status: int | None = None
    wait: float | None = None
    outage: bool = False

    @property
    def outcome(self) -> Outcome:
        return OUTCOME_OF_KIND[self.kind]


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What the body of a 200 says.

    `finish_reason` is one of stop, length, content_filter, refusal, tool_calls, or the API's own word where
    it is none of these. `output` is what the row's result shows: text, a tool call's arguments, a list for
    several choices, a vector. `usage` is None where the body gives none, or an impossible one.
    """

    output: object
    finish_reason: str
    model: str | None
    tier: str | None
    usage: Usage | None


class Demand(msgspec.Struct, frozen=True, gc=False):
    """What a request asks of the limits and the budget, in tokens. `max_output` is None where neither the
    body nor anything else bounds the answer; `unbounded` names what makes a worst case impossible
    (hosted tools, images)."""

    input_tokens: int
    max_output: int | None
    choices: int = 1
    unbounded: str | None = None


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A task as a call carries it. `line` and `key` say which row it is; `attempts` counts its earlier tries that
    count against the row; `weight` is its part of a packed call's input, in bytes or tokens."""

    task_id: int
    line: int
    key: str | None
    attempts: int
    weight: int = 1


class Call(msgspec.Struct, eq=False):
    """One HTTP request, carrying one task, or many that are asked at once (`asked`); or one line of a batch.

    `worst_case` is its reserved cost in pico-dollars (1e-12 USD), None if unknown. `id` is its number in the
    store, 0 until it is claimed. `split_from` is set where it is one half of a call that was refused, and
    `added_base64` where we ask for vectors as base64 of our own accord. `in_batch` says that it is a line of a
    batch, whose `body` is empty once it is uploaded. `since` is how often the server had answered when it left, None
    as long as it has not.
    """

    asked: tuple[Asked, ...]
    endpoint: str
    model: str
    body: bytes
    forced_tool: bool
    demand: Demand
    worst_case: int | None
    id: int = 0
    split_from: Split | None = None
    added_base64: bool = False
    in_batch: bool = False
    since: int | None = None

    @property
    def task_id(self) -> int:
        """The first of its tasks, which stands for all where one must."""
        return self.asked[0].task_id

    @property
    def is_packed(self) -> bool:
        return len(self.asked) > 1


@dataclass(slots=True, eq=False)
class Split:
    """A call of so many tasks that was refused and is asked again in halves; `pending` of them are out."""

    size: int
    pending: int = 2


@dataclass(frozen=True, slots=True)
class Signal:
    """What a settled call means for those that follow.

    `healthy` says that the server does its work; `hold` closes the gate for all, for that many seconds where
    the server named a time; `release` opens it, for it was the rows' own fault; `refused_for_speed` narrows
    what may be in flight; `slow_down` slows its growth as well; `split` asks a packed call again in halves;
    `missed` says that it came to nothing for a reason that may be its size; `refuses_base64` says that this
    server gives vectors as numbers only; `aside` that the task is not to be asked again in this way; `stop` ends
    the dispatch.
    """

    healthy: bool = False
    hold: bool = False
    wait: float | None = None
    release: bool = False
    refused_for_speed: bool = False
    slow_down: bool = False
    split: bool = False
    missed: bool = False
    refuses_base64: bool = False
    aside: bool = False
    reason: str = ""
    stop: Exception | None = None
