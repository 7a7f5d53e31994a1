"""The scene of a test: a store with a series, a run and its rows, the calls that ask them, and what comes back."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from runner.dispatch.feed import Feed
from runner.dispatch.pack import Most
from runner.expand import expand
from runner.files import LineReader
from runner.ingest import Ingested, ingest
from runner.job import Job, requests_job
from runner.model import Call, Outcome, Reply, RunState, TaskState, Usage
from runner.pricing import Prices
from runner.question import Questions
from runner.store import batches, runs, series, tasks
from runner.store.answers import NewAnswer
from runner.store.batches import NewBatch, NewLine
from runner.store.database import Store
from runner.store.identity import Identity
from runner.store.runs import Run
from runner.store.series import Tenure
from runner.store.tasks import Claim, Settlement
from runner.submission import Submission
from runner.tokens import Estimates

IDENTITY = Identity("requests", "", "/in/requests.jsonl", "openai", "https://api.example", "", "")

PRICES = Prices.parse(
    b'{"as_of": "2026-11-01", "models": {"m": {"input": "1", "output": "2", "max_output": 1000}}}',
    "test prices",
)
"""One model, `m`: a dollar a million tokens in, two dollars out, at most 1,000 tokens out."""


USAGE = Usage(input=10, output=5, total=15)


def request_line(key: str, text: str = "hello", *, model: str = "m", **body: Any) -> bytes:
    """A line of the Batch API's format that asks a chat question."""
    request = {"model": model, "messages": [{"role": "user", "content": text}], **body}
    return json.dumps(
        {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": request}
    ).encode()


def request_lines(count: int, **body: Any) -> list[bytes]:
    return [request_line(f"r{n}", f"question {n}", **body) for n in range(count)]


def chat_body(
    text: object = "yes", *, reason: str = "stop", tokens: tuple[int, int] = (10, 5), **more: Any
) -> bytes:
    """The body of a 200 from chat."""
    given, made = tokens
    usage = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
    message = {"role": "assistant", "content": text, **more}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return json.dumps(
        {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
    ).encode()


def ok(body: bytes | None = None, request_id: str = "req_1") -> Reply:
    return Reply(200, {"x-request-id": request_id}, chat_body() if body is None else body)


def refusal(status: int, code: str = "", message: str = "no", *, kind: str = "", **headers: str) -> Reply:
    """An error of the API in its usual form; header names with underscores for hyphens."""
    error = {"message": message, "type": kind, "code": code}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, named, json.dumps({"error": error}).encode())


def answer_of(
    body: bytes, usage: Usage | None = None, cost: int | None = None, model: str | None = "m"
) -> NewAnswer:
    return NewAnswer(200, "req_1", body, model, None, usage, cost)


class Scene:
    """A series that holds its tenure, with one run whose rows are in the store."""

    def __init__(
        self, store: Store, lines: Sequence[bytes], *, job: Job | None = None, identity: Identity = IDENTITY
    ):
        self.store = store
        self.job = job or requests_job("/in/requests.jsonl")
        with store.write() as connection:
            self.tenure: Tenure = series.take(connection, identity)
        self.run: Run = self.new_run(lines)

    def new_run(self, lines: Sequence[bytes], *, dedupe: bool = False) -> Run:
        """A further run of the series, active, whose rows have no tasks yet."""
        with self.store.write() as connection:
            made = runs.create(
                connection,
                series_id=self.tenure.series_id,
                meaning=self.job.meaning_digest(),
                job=self.job.frozen(),
                row_limit=None,
            )
        self.ingested = self.ingest(made, b"\n".join(lines) + b"\n", dedupe=dedupe)
        with self.store.write() as connection:
            runs.move(connection, made.id, RunState.ACTIVE)
            self.run = runs.get(connection, made.id)
        return self.run

    def ingest(self, run: Run, text: bytes, *, dedupe: bool = False) -> Ingested:
        with LineReader(None, stream=io.BytesIO(text)) as reader:
            return ingest(
                self.store,
                self.tenure,
                run,
                reader,
                Questions(self.job),
                dedupe=dedupe,
                stopping=lambda: False,
                told=lambda count: None,
            )

    def expand(self, run: Run | None = None) -> None:
        while expand(self.store, self.tenure, (run or self.run).id) is not None:
            pass

    def more(self) -> bool:
        """Make the tasks of further rows; False where every row has its task."""
        return expand(self.store, self.tenure, self.run.id) is not None

    def feed(self, prices: Prices = PRICES, *, more: Callable[[], bool] | None = None) -> Feed:
        return Feed(
            self.store,
            self.run.id,
            Questions(self.job),
            prices,
            more=more or self.more,
            has_failed=lambda task_id: False,
            estimates=Estimates(),
            most=Most,
        )

    def calls(self, prices: Prices = PRICES) -> list[Call]:
        """Every ready task of the run as a call, not claimed yet."""
        feed, found = self.feed(prices), []
        while isinstance(call := feed.next(), Call):
            found.append(call)
            assert len(found) < 10_000, "the feed hands a task out again and again"
        return found

    def claim(self, *task_ids: int, reserved: int | None = 100) -> list[int]:
        """Claim tasks, one call each; the calls' numbers."""
        claims = [Claim(self.run.id, self.tenure.epoch, (one,), reserved) for one in task_ids]
        with self.store.write() as connection:
            series.fence(connection, self.tenure)
            return list(tasks.claim(connection, claims))

    def plan(self, *task_ids: int, reserved: int | None = 100, run: Run | None = None) -> int:
        """Plan tasks of a run as the lines of a new batch; its number."""
        of, series_id = run or self.run, self.tenure.series_id
        new = NewBatch(
            run_id=of.id,
            series_id=series_id,
            epoch=self.tenure.epoch,
            account=IDENTITY.account,
            endpoint="chat",
            model="m",
            lines=len(task_ids),
            size=1000,
            tokens=500,
            submission=Submission(f"{of.name}_{task_ids[0]}", "ab" * 32, run=of.name),
        )
        with self.store.write() as connection:
            series.fence(connection, self.tenure)
            [batch_id] = batches.plan(connection, [(new, [NewLine(one, reserved) for one in task_ids])])
        return batch_id

    def settle(self, *settlements: Settlement) -> None:
        with self.store.write() as connection:
            series.fence(connection, self.tenure)
            tasks.settle(connection, settlements)

    def answer(
        self,
        body: bytes,
        *,
        usage: Usage | None = USAGE,
        cost: int | None = 20,
        reason: str = "stop",
        fault: str | None = None,
        model: str | None = "m",
    ) -> int:
        """Claim the next ready task and store an answer for it; the task's number."""
        task_id = self.calls()[0].task_id
        [call_id] = self.claim(task_id)
        self.settle(
            settlement(
                call_id,
                task_id,
                TaskState.ANSWERED,
                finish_reason=reason,
                fault=fault,
                answer=answer_of(body, usage, cost, model),
                noted=False,
            )
        )
        return task_id

    def fail(self, error: dict[str, Any], *, to: TaskState = TaskState.FAILED) -> int:
        """Claim the next ready task and end it without an answer; the task's number."""
        task_id = self.calls()[0].task_id
        [call_id] = self.claim(task_id)
        self.settle(settlement(call_id, task_id, to, outcome=Outcome.REFUSED, error=json.dumps(error)))
        return task_id

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self.store.read() as connection:
            return [tuple(one) for one in connection.exec_driver_sql(sql, values)]

    def states(self) -> list[str]:
        """The states of the tasks, in the order of their numbers."""
        return [state for (state,) in self.query("SELECT state FROM task ORDER BY id")]

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything in the store but the epochs, to see that nothing was written."""
        names = (
            "run",
            "row",
            "task",
            "call",
            "attempt",
            "answer",
            "artifact",
            "batch",
            "batch_queue",
            "webhook",
        )
        return {name: self.query(f"SELECT * FROM {name} ORDER BY 1, 2") for name in names}


def settlement(
    call_id: int,
    task_id: int,
    to: TaskState,
    *,
    outcome: Outcome | None = None,
    attempts: int = 1,
    due_at: int = 0,
    **more: Any,
) -> Settlement:
    """How a call ended, with what most tests do not care about filled in."""
    outcome = outcome or (Outcome.OK if to is TaskState.ANSWERED else Outcome.REFUSED)
    return Settlement(
        call_id=call_id,
        task_id=task_id,
        outcome=outcome,
        kind="answered" if to is TaskState.ANSWERED else "try_again",
        status=200 if to is TaskState.ANSWERED else 409,
        code="",
        request_id="req_1",
        to=to,
        due_at=due_at,
        attempts=attempts,
        **more,
    )
