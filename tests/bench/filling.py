"""A store filled through its own verbs, without network: rows read in, and answered as fast as the disk takes it.

    python tests/bench/filling.py JOB_OR_REQUESTS STORE ROWS_TO_ANSWER [BASE_URL [at-once]]

Prints the CPU seconds and rates of the reading and of the answering. The series is that of
`runner run JOB_OR_REQUESTS --base-url BASE_URL`. `at-once` gives all rows one answer, each its own copy, without
the verbs: a million in seconds.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import orjson
from sqlalchemy import Connection

from runner import takeup
from runner.api.account import Account, account_from
from runner.cli.account import identity_of
from runner.cli.options import job_of
from runner.expand import expand
from runner.job import Job
from runner.model import Outcome, RunState, TaskState, Usage
from runner.store import runs, series, tasks
from runner.store.answers import NewAnswer
from runner.store.database import Store
from runner.store.runs import Run
from runner.store.series import Tenure
from runner.store.tasks import Claim, Settlement

NOWHERE = "http://127.0.0.1:9/v1"
"""An address where nothing listens: what is answered already needs no call."""

GROUP = 500
MAX_LINE = 32 * 2**20
TEXT = (
    "The customer reports that the router restarts every evening since the update of 3 March; a replacement was "
    "promised for Thursday and has not come. She asks for a call back before noon."
)


def account(base_url: str) -> Account:
    """The account that the command would ask at this address."""
    found, _ = account_from({}, provider="openai", base_url=base_url, insecure_http=False)
    return found


def take_up(store: Store, job: Job, base_url: str) -> tuple[Tenure, Run]:
    """Read the job's input into the store."""
    with store.write() as connection:
        tenure = series.take(connection, identity_of(job, account(base_url)))
    assert job.input is not None
    source = takeup.Source(Path(job.input), None, limit=None, max_line=MAX_LINE)
    this = takeup.take_up(store, tenure, job, source, stopping=lambda: False, told=lambda _count: None)
    return tenure, this


def answer(store: Store, tenure: Tenure, this: Run, upto: int) -> int:
    """Answer the first `upto` rows of a run, each as a call of its own; how many were."""
    with store.write() as connection:
        series.fence(connection, tenure)
        runs.move(connection, this.id, RunState.ACTIVE)
    done = 0
    while done < upto:
        with store.read() as connection:
            ready = tasks.ready(
                connection, run_id=this.id, limit=min(GROUP, upto - done), max_bytes=64 * 2**20
            )
        if not ready:
            if expand(store, tenure, this.id) is None:
                break
            continue
        with store.write() as connection:
            series.fence(connection, tenure)
            claims = [Claim(this.id, tenure.epoch, (one.task_id,), 100_000_000) for one in ready]
            calls = tasks.claim(connection, claims)
            tasks.settle(
                connection,
                [_settlement(call, one.task_id) for call, one in zip(calls, ready, strict=True)],
            )
        done += len(ready)
    return done


def answer_at_once(store: Store, tenure: Tenure, this: Run, upto: int) -> int:
    """Answer the first `upto` rows of a run in a fresh store alike, each as a call of its own; how many were."""
    with store.write() as connection:
        series.fence(connection, tenure)
        runs.move(connection, this.id, RunState.ACTIVE)
    done = 0
    while done < upto and expand(store, tenure, this.id) is not None:
        with store.write() as connection:
            done += _answer_ready(connection, this.id, tenure.epoch, upto - done)
    return done


def _answer_ready(connection: Connection, run_id: int, epoch: int, most: int) -> int:
    one = _settlement(0, 0)
    assert one.answer is not None
    said = one.answer
    first, last, count = connection.exec_driver_sql(
        "SELECT min(id), max(id), count(*) FROM (SELECT id FROM task WHERE run_id = ? AND state = 'ready'"
        " ORDER BY id LIMIT ?)",
        (run_id, most),
    ).one()
    ready = (first, last)
    # A fresh store: what belongs to a task can bear the task's number.
    connection.exec_driver_sql(
        "INSERT INTO call (id, run_id, epoch, sent_at, reserved) SELECT id, run_id, ?, ?, 100000000 FROM task"
        " WHERE id BETWEEN ? AND ?",
        (epoch, one.due_at, *ready),
    )
    connection.exec_driver_sql(
        "INSERT INTO answer (id, call_id, status, request_id, body, checksum, model, tier, input_tokens,"
        " cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, total_tokens, cost, received_at)"
        " SELECT id, id, 200, 'req_' || id, ?, ?, ?, ?, 240, 0, 0, 45, 0, 285, ?, ? FROM task"
        " WHERE id BETWEEN ? AND ?",
        (said.body, said.checksum, said.model, said.tier, said.cost, one.due_at, *ready),
    )
    connection.exec_driver_sql(
        "UPDATE task SET state = 'answered', attempts = 1, call_id = id, answer_id = id, finish_reason = 'stop'"
        " WHERE id BETWEEN ? AND ?",
        ready,
    )
    return int(count)


def _settlement(call: int, task: int) -> Settlement:
    body = orjson.dumps(
        {
            "id": f"chatcmpl-{call:024}",
            "object": "chat.completion",
            "created": 1_790_000_000,
            "model": "gpt-6-luna-2026-08-01",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": f"{task}: {TEXT}", "refusal": None},
                    "finish_reason": "stop",
                    "logprobs": None,
                }
            ],
            "usage": {
                "prompt_tokens": 240,
                "completion_tokens": 45,
                "total_tokens": 285,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
            "service_tier": "default",
            "system_fingerprint": "fp_bench",
        }
    )
    return Settlement(
        call_id=call,
        task_id=task,
        outcome=Outcome.OK,
        kind="answered",
        status=200,
        code="",
        request_id=f"req_{call:032}",
        to=TaskState.ANSWERED,
        due_at=int(datetime.now(UTC).timestamp() * 1_000_000),
        attempts=1,
        finish_reason="stop",
        answer=NewAnswer(
            status=200,
            request_id=f"req_{call:032}",
            body=body,
            model="gpt-6-luna-2026-08-01",
            tier="default",
            usage=Usage(input=240, output=45, total=285),
            cost=46_500_000,
        ),
    )


def main(arguments: list[str]) -> None:
    job = job_of(arguments[0], None)
    upto = int(arguments[2])
    base_url = arguments[3] if len(arguments) > 3 else NOWHERE
    with Store.open(f"sqlite:///{arguments[1]}") as store:
        start = time.process_time(), time.perf_counter()
        tenure, this = take_up(store, job, base_url)
        read = time.process_time(), time.perf_counter()
        fill = answer_at_once if "at-once" in arguments[4:] else answer
        answered = fill(store, tenure, this, upto) if upto else 0
        done = time.process_time(), time.perf_counter()
    print(
        json.dumps(
            {
                "rows": this.rows_in,
                "read_cpu": read[0] - start[0],
                "read_wall": read[1] - start[1],
                "answered": answered,
                "answer_cpu": done[0] - read[0],
                "answer_wall": done[1] - read[1],
                "run": this.name,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
