"""Batches: the shards of a run, from the plan over their submission to the end.

    plan ──▶ keep, see ──▶ settle of each task ──▶ end
      └──────────┴──▶ dissolve     it was surely never created: its tasks are ready again

One line of a batch is one call that carries one task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import orjson
from sqlalchemy import Connection

from runner.errors import StoreUnusable
from runner.model import Usage
from runner.remote import Failure, RemoteBatch
from runner.store import bulk
from runner.store.batch_lines import (
    LineContent,
    LineKey,
    Member,
    ReadyTask,
    content,
    keys,
    left,
    members,
    next_ready,
    record,
    worst_case,
)
from runner.store.clock import now
from runner.store.runs import span
from runner.submission import UNSENT, Stage, Submission

__all__ = [
    "Kept",
    "LineContent",
    "LineKey",
    "Member",
    "NewBatch",
    "NewLine",
    "ReadyTask",
    "content",
    "dissolve",
    "end",
    "enqueued",
    "find_remote",
    "get",
    "keep",
    "keys",
    "learn_queue",
    "left",
    "members",
    "next_ready",
    "of_run",
    "out",
    "plan",
    "queue_limit",
    "record",
    "see",
    "waited_for",
    "waiting_elsewhere",
    "worst_case",
]

LONGEST_QUEUED = 26 * 3_600_000_000  # microseconds: the 24 hours of a batch, and some
RESULTS = ("collected", "failed", "dissolved", "held", "cancelled")
"""How a batch can end."""


class NewBatch(NamedTuple):
    """A shard that is to be submitted. `size` is in bytes, `tokens` are those that it enqueues."""

    run_id: int
    series_id: int
    epoch: int
    account: str
    endpoint: str
    model: str
    lines: int
    size: int
    tokens: int
    submission: Submission


class NewLine(NamedTuple):
    """A line of a shard: its task, and its worst case in pico-dollars, None if unknown."""

    task_id: int
    reserved: int | None


class Kept(NamedTuple):
    """A batch as the store knows it. `seen` is the last look at it, `first_call` its first line's; times are in
    microseconds since 1970."""

    id: int
    run_id: int
    run_name: str
    series_id: int
    account: str
    endpoint: str
    model: str
    lines: int
    size: int
    tokens: int
    first_call: int
    submission: Submission
    seen: RemoteBatch | None
    polls: int
    created_at: int
    submitted_at: int | None
    ended_at: int | None
    result: str | None


def plan(connection: Connection, shards: Sequence[tuple[NewBatch, Sequence[NewLine]]]) -> list[int]:
    """Commit the intent to submit shards: make the batches, their calls in the order of the lines, and take their
    tasks. The batches' ids, in order. StoreUnusable if a task is not ready."""
    return [_plan(connection, new, lines) for new, lines in shards]


def _plan(connection: Connection, new: NewBatch, lines: Sequence[NewLine]) -> int:
    assert len(lines) == new.lines > 0
    at = now()
    first = int(connection.exec_driver_sql("SELECT coalesce(max(id), 0) + 1 FROM call").scalar_one())
    submission = new.submission
    batch_id = int(
        connection.exec_driver_sql(
            "INSERT INTO batch (run_id, series_id, epoch, account, endpoint, model, lines, size, tokens, first_call,"
            " submission, stage, remote_id, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " RETURNING id",
            (*new[:9], first, submission.to_json(), submission.stage.value, submission.batch_id, at),
        ).scalar_one()
    )
    numbered = list(enumerate(lines, start=first))
    bulk.run(
        connection,
        "INSERT INTO call (id, run_id, epoch, sent_at, reserved, batch_id) VALUES {rows}",
        [(call_id, new.run_id, new.epoch, at, one.reserved, batch_id) for call_id, one in numbered],
    )
    moved = bulk.run(
        connection,
        "UPDATE OR FAIL task SET state = 'batched', call_id = new.column1 FROM (VALUES {rows}) AS new"
        " WHERE task.id = new.column2 AND task.state = 'ready' AND task.run_id = new.column3",
        [(call_id, one.task_id, new.run_id) for call_id, one in numbered],
    )
    if moved != len(lines):
        raise _refused("plan a batch", f"{len(lines) - moved} of {len(lines)} tasks were not ready")
    return batch_id


def keep(connection: Connection, records: Sequence[tuple[int, Submission]]) -> None:
    """Keep how far the submissions of batches are. StoreUnusable if one has ended."""
    at = now()
    for batch_id, submission in records:
        submitted_at = at if submission.stage is Stage.SUBMITTED else None
        kept = connection.exec_driver_sql(
            "UPDATE batch SET submission = ?, stage = ?, remote_id = ?, submitted_at = coalesce(submitted_at, ?)"
            " WHERE id = ? AND ended_at IS NULL",
            (submission.to_json(), submission.stage.value, submission.batch_id, submitted_at, batch_id),
        )
        if kept.rowcount != 1:
            raise _refused("keep a batch's submission", f"batch {batch_id} is not out")


def see(connection: Connection, looks: Sequence[tuple[int, RemoteBatch]]) -> None:
    """Keep how batches looked at their server just now. StoreUnusable if one has ended here."""
    for batch_id, seen in looks:
        kept = connection.exec_driver_sql(
            "UPDATE batch SET seen = ?, polls = polls + 1 WHERE id = ? AND ended_at IS NULL",
            (_seen_text(seen), batch_id),
        )
        if kept.rowcount != 1:
            raise _refused("keep a look at a batch", f"batch {batch_id} is not out")


def end(connection: Connection, ends: Sequence[tuple[int, str]]) -> None:
    """Say how batches have ended, each by a word of RESULTS. StoreUnusable if a task is still out in one, or it has
    ended before."""
    for batch_id, result in ends:
        if left(connection, batch_id, after_call=0, limit=1):
            raise _refused("end a batch", f"batch {batch_id} has tasks that are not settled")
        _end(connection, batch_id, result)
        # Rows of other runs, earlier ones taken up again among them, may have waited for what comes back from this one.
        connection.exec_driver_sql(
            f"{_LOOK_AGAIN} AND EXISTS (SELECT 1 FROM attempt WHERE attempt.outcome <> 'ok' AND attempt.call_id"
            " BETWEEN batch.first_call AND batch.first_call + batch.lines - 1)",
            (batch_id,),
        )


def dissolve(connection: Connection, batch_ids: Sequence[int]) -> None:
    """Undo the plan of batches that were surely never created: their tasks are ready again, their calls gone, but
    for those that are settled. StoreUnusable if one has ended."""
    for batch_id in batch_ids:
        connection.exec_driver_sql(
            "UPDATE task SET state = 'ready', due_at = ?, call_id = NULL FROM batch"
            " WHERE batch.id = ? AND task.run_id = batch.run_id AND task.state = 'batched' AND task.call_id"
            " BETWEEN batch.first_call AND batch.first_call + batch.lines - 1"
            " AND (SELECT batch_id FROM call WHERE call.id = task.call_id) = batch.id",
            (now(), batch_id),
        )
        connection.exec_driver_sql(
            "DELETE FROM call WHERE batch_id = ? AND NOT EXISTS"
            " (SELECT 1 FROM attempt WHERE attempt.call_id = call.id) AND NOT EXISTS"
            " (SELECT 1 FROM answer WHERE answer.call_id = call.id)",
            (batch_id,),
        )
        _end(connection, batch_id, "dissolved")
        connection.exec_driver_sql(_LOOK_AGAIN, (batch_id,))


_LOOK_AGAIN = (
    "UPDATE run SET expanded_to = 0 FROM batch WHERE batch.id = ? AND run.series_id = batch.series_id"
    " AND run.id <> batch.run_id AND run.state <> 'finished'"
)


def _end(connection: Connection, batch_id: int, result: str) -> None:
    assert result in RESULTS
    ended = connection.exec_driver_sql(
        "UPDATE batch SET ended_at = ?, result = ? WHERE id = ? AND ended_at IS NULL",
        (now(), result, batch_id),
    )
    if ended.rowcount != 1:
        raise _refused("end a batch", f"batch {batch_id} is not out")


def get(connection: Connection, batch_id: int) -> Kept:
    """A batch by its number."""
    return _kept(connection.exec_driver_sql(f"{_KEPT} WHERE batch.id = ?", (batch_id,)).one())


def out(connection: Connection, series_id: int) -> list[Kept]:
    """The batches of a series that have not ended, the oldest first."""
    return _all(connection, "batch.series_id = ? AND ended_at IS NULL", series_id)


def waited_for(connection: Connection, run_id: int, series_id: int) -> list[Kept]:
    """The batches out that a run waits for: its own, and those of earlier runs of its series."""
    return [one for one in out(connection, series_id) if one.run_id <= run_id]


def of_run(connection: Connection, run_id: int) -> list[Kept]:
    """All batches that a run has planned, the oldest first."""
    return _all(connection, "batch.run_id = ?", run_id)


def find_remote(connection: Connection, remote_id: str) -> Kept | None:
    """The newest batch that its server knows by this id; None if it is none of ours."""
    found = _all(connection, "batch.remote_id = ?", remote_id)
    return found[-1] if found else None


def enqueued(connection: Connection, account: str, model: str) -> int:
    """The tokens of the batches that are, or may be, in an account's queue for a model. One that was submitted longer
    ago than any is queued has ended there, even if nobody has taken it in."""
    unsent = ", ".join(f"'{stage}'" for stage in UNSENT)
    return int(
        connection.exec_driver_sql(
            "SELECT coalesce(sum(tokens), 0) FROM batch WHERE ended_at IS NULL AND account = ? AND model = ?"
            f" AND stage NOT IN ({unsent}) AND coalesce(submitted_at, created_at) > ?",
            (account, model, now() - LONGEST_QUEUED),
        ).scalar_one()
    )


def learn_queue(connection: Connection, limits: Sequence[tuple[str, str, int]]) -> None:
    """Keep what was learned of how many tokens a queue takes, each as (account, model, tokens)."""
    at = now()
    for account, model, tokens in limits:
        connection.exec_driver_sql(
            "INSERT INTO batch_queue (account, model, tokens, seen_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (account, model) DO UPDATE SET tokens = excluded.tokens, seen_at = excluded.seen_at",
            (account, model, tokens, at),
        )


def queue_limit(connection: Connection, account: str, model: str) -> int | None:
    """How many tokens an account's queue for a model was last known to take; None where nothing is known."""
    return connection.exec_driver_sql(
        "SELECT tokens FROM batch_queue WHERE account = ? AND model = ?", (account, model)
    ).scalar()


def waiting_elsewhere(connection: Connection, run_id: int, series_id: int) -> int:
    """The rows of a run, as far as their tasks were looked for, whose task is out in a batch of another run."""
    runs = "(SELECT run_id FROM batch WHERE series_id = ? AND ended_at IS NULL AND run_id <> ?)"
    tasks = f"FROM task WHERE state = 'batched' AND run_id IN {runs}"
    if connection.exec_driver_sql(f"SELECT 1 {tasks} LIMIT 1", (series_id, run_id)).first() is None:
        return 0
    return int(
        connection.exec_driver_sql(
            "SELECT count(*) FROM row WHERE id >= ? AND id <= (SELECT expanded_to FROM run WHERE id = ?)"
            f" AND fault IS NULL AND (hash, occurrence) IN (SELECT hash, occurrence {tasks})",
            (span(run_id)[0], run_id, series_id, run_id),
        ).scalar_one()
    )


_KEPT = (
    "SELECT batch.id, run_id, run.name, batch.series_id, account, endpoint, model, lines, size, tokens, first_call,"
    " submission, seen, polls, batch.created_at, submitted_at, ended_at, result"
    " FROM batch JOIN run ON run.id = batch.run_id"
)


def _all(connection: Connection, condition: str, value: object) -> list[Kept]:
    found = connection.exec_driver_sql(f"{_KEPT} WHERE {condition} ORDER BY batch.id", (value,))
    return [_kept(one) for one in found]


def _kept(found: Sequence[Any]) -> Kept:
    try:
        submission = Submission.from_json(found[11])
        seen = None if found[12] is None else _seen(found[12])
    except (ValueError, TypeError, KeyError) as error:
        raise StoreUnusable(
            f"What the store holds of batch {found[0]} of run {found[2]} is damaged: {error}. Nothing was changed. "
            "Restore a copy of the store; `runner doctor` checks the whole of it."
        ) from error
    return Kept._make((*found[:11], submission, seen, *found[13:]))


def _seen_text(seen: RemoteBatch) -> str:
    fields = {
        **seen._asdict(),
        "failures": [one._asdict() for one in seen.failures],
        "metadata": dict(seen.metadata),
    }
    return msgspec.json.encode(fields).decode()


def _seen(text: str) -> RemoteBatch:
    fields = orjson.loads(text)
    fields["failures"] = tuple(Failure(**one) for one in fields["failures"])
    fields["usage"] = None if fields["usage"] is None else Usage(**fields["usage"])
    return RemoteBatch(**fields)


def _refused(verb: str, why: str) -> StoreUnusable:
    return StoreUnusable(
        f"The store refused to {verb}: {why}. Nothing of this step was written. Run the same command again; "
        "`runner doctor` checks the store."
    )
