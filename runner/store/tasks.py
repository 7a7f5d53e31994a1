"""Tasks: from what rows need, by way of a call, to an answer or a final error.

Each verb acts only from the legal state, so that a late or repeated write changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection

from runner.errors import StoreUnusable
from runner.model import Kind, Outcome, TaskState
from runner.store import answers, bulk, spans
from runner.store.answers import NewAnswer
from runner.store.clock import now
from runner.store.runs import line_of, row_id, span
from runner.store.schema import LINE_BITS

MANY_TASKS = 100_000
"""The hashes of so many tasks lie in SQLite's cache, where each is added as soon in any order."""

LEAST_ROWS, MOST_ROWS = 2_000, 65_536
"""So many rows are made into tasks at a time: the most take half a second where there are a million."""


class Ready(msgspec.Struct, frozen=True, gc=False):
    """A task whose turn has come, with the record to ask it from."""

    task_id: int
    row_id: int
    attempts: int
    key: str | None
    record: bytes

    @property
    def line(self) -> int:
        return line_of(self.row_id)


class Claim(msgspec.Struct, frozen=True, gc=False):
    """The intent to send one call for some tasks, with its worst case in pico-dollars (None if unknown)."""

    run_id: int
    epoch: int
    task_ids: tuple[int, ...]
    reserved: int | None


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """How a call ended for one task, and where the task goes; or for so many `tasks` that are numbered one after
    another, as their items are. Of the tasks of a packed call the first brings the answer, and all of them are
    settled in one transaction. `due_at` counts where a task is to be asked again. `noted` says that the attempt is
    written down: of a call that was answered online the answer itself says all that its attempt would, for as long as
    the task points to it."""

    call_id: int
    task_id: int
    outcome: Outcome
    kind: str
    status: int | None
    code: str
    request_id: str | None
    to: TaskState
    due_at: int
    attempts: int
    item: int = 0
    finish_reason: str | None = None
    fault: str | None = None
    error: str | None = None
    answer: NewAnswer | None = None
    tasks: int = 1
    noted: bool = True


class Expanded(NamedTuple):
    """Rows that were looked at, and how many of them made or took over a task that is to be asked."""

    rows: int
    asked: int


def expand(connection: Connection, *, run_id: int, series_id: int, limit: int = MOST_ROWS) -> Expanded | None:
    """Make the tasks that the run's next rows need: of as many rows as have theirs, `limit` at most. None if no row is
    left.

    A question that the series has been answered, or has under way in a batch, is left as it is; one that failed
    or waited for an earlier run is asked for this one. What was held stays held.
    """
    at = int(connection.exec_driver_sql("SELECT expanded_to FROM run WHERE id = ?", (run_id,)).scalar_one())
    first, last = row_id(run_id, 0), row_id(run_id, (1 << LINE_BITS) - 1)
    at = max(at, first)
    # Hashes lie anywhere in their index: the more of them are added in its order, the fewer of its pages each costs.
    limit = min(limit, max(LEAST_ROWS, at - first))
    upto, rows = connection.exec_driver_sql(
        "SELECT max(id), count(hash) FROM"
        " (SELECT id, CASE WHEN fault IS NULL THEN hash END AS hash FROM row WHERE id > ? AND id <= ?"
        "  ORDER BY id LIMIT ?)",
        (at, last, limit),
    ).one()
    if upto is None:
        return None
    newest = connection.exec_driver_sql("SELECT coalesce(max(id), 0) FROM task").scalar_one()
    # The tasks themselves lie as their rows do, for so they are asked.
    order = "hash, id" if newest > MANY_TASKS else "id"
    asked = connection.exec_driver_sql(
        "INSERT INTO task (id, series_id, hash, occurrence, run_id, row_id, state, due_at)"
        " SELECT id + ?, ?, hash, occurrence, ?, id, 'ready', ? FROM row"
        " WHERE id > ? AND id <= ? AND hash IS NOT NULL AND fault IS NULL"
        f" ORDER BY {order}"
        " ON CONFLICT (series_id, hash, occurrence) DO UPDATE SET run_id = excluded.run_id,"
        " row_id = excluded.row_id, due_at = excluded.due_at, attempts = 0, fault = NULL,"
        " error = CASE task.state WHEN 'held' THEN task.error END,"
        " state = CASE task.state WHEN 'held' THEN 'held' ELSE 'ready' END"
        " WHERE task.run_id <> excluded.run_id AND task.state IN ('ready', 'held', 'failed')",
        (newest - at, series_id, run_id, now(), at, upto),
    ).rowcount
    connection.exec_driver_sql("UPDATE run SET expanded_to = ? WHERE id = ?", (upto, run_id))
    return Expanded(rows, asked)


def ready(
    connection: Connection, *, run_id: int, limit: int, max_bytes: int, besides: Set[int] = frozenset()
) -> list[Ready]:
    """The tasks whose turn has come `besides` those named, the longest due first, as far as `max_bytes` of
    records."""
    found = connection.exec_driver_sql(
        "SELECT task.id, task.row_id, task.attempts, row.key, row.record FROM task"
        " JOIN row ON row.id = task.row_id"
        " WHERE task.run_id = ? AND task.state = 'ready' AND task.due_at <= ?"
        " ORDER BY task.due_at, task.row_id LIMIT ?",
        (run_id, now(), limit + len(besides)),
    )
    taken: list[Ready] = []
    size = 0
    for one in iter(found.cursor.fetchone, None):
        if one[0] in besides:
            continue
        taken.append(Ready(*one))
        size += len(one[4])
        if size >= max_bytes:
            break
    return taken


def next_due(connection: Connection, run_id: int, *, besides: Set[int] = frozenset()) -> int | None:
    """When the next waiting task `besides` those named is due, in microseconds since 1970; None if none waits."""
    found = connection.exec_driver_sql(
        "SELECT due_at, id FROM task WHERE run_id = ? AND state = 'ready' ORDER BY due_at LIMIT ?",
        (run_id, len(besides) + 1),
    )
    return next((due_at for due_at, number in found.fetchall() if number not in besides), None)


def bring_forward(connection: Connection, run_id: int, *, longest: int) -> None:
    """Let no ready task of a run wait longer than so many microseconds from now: what is due later became so by a clock
    that was set back since."""
    at = now()
    connection.exec_driver_sql(
        "UPDATE task SET due_at = ? WHERE run_id = ? AND state = 'ready' AND due_at > ?",
        (at, run_id, at + longest),
    )


def claim(connection: Connection, claims: Sequence[Claim]) -> list[int]:
    """Commit the intent: make the calls, reserve their cost, take their tasks. The calls' ids, in order."""
    sent_at = now()
    first = bulk.add(
        connection,
        "INSERT INTO call (run_id, epoch, sent_at, reserved) VALUES {rows}",
        [(one.run_id, one.epoch, sent_at, one.reserved) for one in claims],
    )
    moves: list[tuple[int, int]] = []
    moved = 0
    for n, one in enumerate(claims):
        found = spans.of(one.task_ids) if len(one.task_ids) > 1 else []
        if found:
            moved += spans.claim(connection, first + n, found)
        else:
            moves += [(first + n, task_id) for task_id in one.task_ids]
    moved += bulk.run(
        connection,
        "UPDATE OR FAIL task SET state = 'in_flight', call_id = new.column1 FROM (VALUES {rows}) AS new"
        " WHERE task.id = new.column2 AND task.state = 'ready'",
        moves,
    )
    _expect(moved, sum(len(one.task_ids) for one in claims), "claim")
    return [first + n for n in range(len(claims))]


def settle(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Store what came back and move the tasks on, all in one transaction: a task never says answered
    without its body."""
    ended_at = now()
    brought = [(one.call_id, one.answer) for one in settlements if one.answer is not None]
    next_answer = answers.add(connection, brought, ended_at) if brought else 0
    attempts: list[tuple[object, ...]] = []
    answered: list[tuple[object, ...]] = []
    moves: list[tuple[object, ...]] = []
    answer_id, answered_call, moved = None, 0, 0
    for one in settlements:
        call_id, task_id = one.call_id, one.task_id
        if one.answer is not None:
            answer_id, answered_call = next_answer, call_id
            next_answer += 1
        kept = answer_id if one.to == "answered" and call_id == answered_call else None
        if kept is not None and one.tasks == 1 and not one.noted and one.fault is None and one.error is None:
            answered.append((one.attempts, kept, one.item, one.finish_reason, task_id, call_id))
            continue
        attempt = (
            (
                call_id, task_id, one.outcome.value, one.kind, one.status, one.code, one.request_id, ended_at,
            ) if one.noted else None
        )  # fmt: skip
        move = (
            one.to.value, one.due_at, one.attempts, kept, one.item, one.finish_reason, one.fault, one.error,
            task_id, call_id,
        )  # fmt: skip
        if one.tasks == 1:
            moves.append(move)
            if attempt is not None:
                attempts.append(attempt)
        else:
            moved += spans.settle(connection, one.tasks, attempt, move)
    bulk.run(
        connection,
        "INSERT INTO attempt (call_id, task_id, outcome, kind, status, code, request_id, ended_at)"
        " VALUES {rows}",
        attempts,
    )
    # What nearly all come to, for half of what it costs to say that nothing is wrong with it.
    moved += bulk.run(
        connection,
        "UPDATE OR FAIL task SET state = 'answered', attempts = new.column1, answer_id = new.column2,"
        " item = new.column3, finish_reason = new.column4, fault = NULL, error = NULL"
        " FROM (VALUES {rows}) AS new WHERE task.id = new.column5 AND task.call_id = new.column6"
        " AND task.state IN ('in_flight', 'batched')",
        answered,
    )
    moved += bulk.run(
        connection,
        "UPDATE OR FAIL task SET state = new.column1, due_at = new.column2, attempts = new.column3,"
        " answer_id = new.column4, item = new.column5, finish_reason = new.column6, fault = new.column7,"
        " error = new.column8 FROM (VALUES {rows}) AS new"
        " WHERE task.id = new.column9 AND task.call_id = new.column10"
        " AND task.state IN ('in_flight', 'batched')",
        moves,
    )
    _expect(moved, sum(one.tasks for one in settlements), "settle")


def recover(connection: Connection, *, series_id: int, to: TaskState, error: str | None) -> int:
    """Tasks that a dead process left in flight: their fate is unknown. How many there were. What is out in a batch
    goes on there."""
    connection.exec_driver_sql(
        "INSERT INTO attempt (call_id, task_id, outcome, kind, code, ended_at)"
        " SELECT call_id, id, ?, 'ambiguous', 'process_ended', ? FROM task"
        " WHERE series_id = ? AND state = 'in_flight'",
        (Outcome.AMBIGUOUS.value, now(), series_id),
    )
    return connection.exec_driver_sql(
        "UPDATE task SET state = ?, due_at = ?, error = ? WHERE series_id = ? AND state = 'in_flight'",
        (to.value, now(), error, series_id),
    ).rowcount


def retry(connection: Connection, *, run_id: int, series_id: int, accepted: Sequence[str] | None) -> int:
    """Send the failed rows of a run round again, and nothing else; how many tasks that is.

    `accepted` are the finish reasons that count as success, None where every one does.
    """
    reasons = accepted or ()
    no_success = "0" if accepted is None else f"task.finish_reason NOT IN ({', '.join('?' * len(reasons))})"
    again = (
        "FROM row JOIN task ON task.series_id = ?"
        " AND task.hash = row.hash AND task.occurrence = row.occurrence"
        " WHERE row.id BETWEEN ? AND ? AND row.fault IS NULL"
        " AND (task.state IN ('failed', 'held') OR (task.state = 'answered' AND (task.fault IS NOT NULL"
        f" OR {no_success})))"
    )
    where = (series_id, *span(run_id), *reasons)
    _note_answered(connection, again, where)
    return connection.exec_driver_sql(
        "UPDATE task SET state = 'ready', due_at = ?, attempts = 0, run_id = ?, answer_id = NULL,"
        " finish_reason = NULL, fault = NULL, error = NULL, row_id = again.row_id"
        f" FROM (SELECT task.id AS id, min(row.id) AS row_id {again} GROUP BY task.id) AS again"
        " WHERE task.id = again.id",
        (now(), run_id, *where),
    ).rowcount


def _note_answered(connection: Connection, which: str, where: Sequence[object]) -> None:
    """Write down the attempts by which tasks were answered that are not to point to their answers any more."""
    connection.exec_driver_sql(
        "INSERT INTO attempt (call_id, task_id, outcome, kind, status, code, request_id, ended_at)"
        " SELECT answer.call_id, task.id, ?, ?, answer.status, '', answer.request_id, answer.received_at"
        f" FROM (SELECT DISTINCT task.id AS id {which}) AS again JOIN task ON task.id = again.id"
        " JOIN answer ON answer.id = task.answer_id WHERE NOT EXISTS (SELECT 1 FROM attempt"
        "  WHERE attempt.call_id = answer.call_id AND attempt.task_id = task.id)",
        (Outcome.OK.value, Kind.ANSWERED.value, *where),
    )


def is_answered(connection: Connection, series_id: int, hash_: bytes, occurrence: int) -> bool:
    """Whether the series has been answered this question already."""
    found = connection.exec_driver_sql(
        "SELECT 1 FROM task WHERE series_id = ? AND hash = ? AND occurrence = ? AND state = 'answered'",
        (series_id, hash_, occurrence),
    )
    return found.first() is not None


def _expect(changed: int, wanted: int, verb: str) -> None:
    if changed != wanted:
        raise StoreUnusable(
            f"The store refused to {verb}: {wanted - changed} of {wanted} tasks were not in the state expected. "
            "Nothing of this step was written. Run the same command again; `runner doctor` checks the store."
        )
