"""Totals: what a run's attempts came to, and where its tasks stand."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from runner.model import Kind, Outcome, TaskState
from runner.store import batches
from runner.store.runs import line_of, span
from runner.sums import Sums

_ON_THE_WAY = (TaskState.READY, TaskState.IN_FLIGHT, TaskState.BATCHED)

_UNRUN = f"outcome = '{Outcome.NOT_SENT}' OR kind = '{Kind.NOT_RUN}'"
"""What was no request: it never left, or its batch ended before it was its turn."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """What the attempts of a run came to.

    `requests` left for the server; a line of a batch counts once it is settled, unless its batch ended before it
    was its turn. `retries` are those that carried a task again which one before had left without an answer,
    `rate_limited` were refused for speed, `ambiguous` may have been charged without an answer; `at_risk` is their
    worst case in pico-dollars, None where none of them could be priced.
    """

    requests: int
    retries: int
    rate_limited: int
    ambiguous: int
    at_risk: int | None


def attempts(connection: Connection, run_id: int) -> Attempts:
    """What the attempts of a run came to, at the cost of those that were no success: of the others there may
    be millions."""
    made, flying = connection.exec_driver_sql(
        "SELECT (SELECT count(*) FROM call WHERE run_id = ?),"
        " (SELECT count(DISTINCT call_id) FROM task WHERE run_id = ? AND state = 'in_flight')",
        (run_id, run_id),
    ).one()
    flying += _tasks(connection, run_id, TaskState.BATCHED)
    unrun = _calls(connection, run_id, _UNRUN)[0]
    limited = _calls(connection, run_id, "outcome <> 'not_sent' AND kind = 'rate_limited'")[0]
    ambiguous, at_risk = _calls(connection, run_id, "outcome = 'ambiguous'")
    requests = int(made) - int(flying) - unrun
    return Attempts(requests, _calls_again(connection, run_id), limited, ambiguous, at_risk)


def _calls(connection: Connection, run_id: int, ended: str) -> tuple[int, int | None]:
    """How many calls of a run ended so, other than well, and what was reserved for them; None if unknown."""
    count, reserved = connection.exec_driver_sql(
        "SELECT count(*), sum(reserved) FROM call WHERE run_id = ? AND id IN"
        f" (SELECT call_id FROM attempt WHERE outcome <> 'ok' AND ({ended}))",
        (run_id,),
    ).one()
    return int(count), reserved if count else 0


def _calls_again(connection: Connection, run_id: int) -> int:
    """The calls of a run, packed ones among them, that carried a task which an earlier one had failed to get
    answered."""
    return int(
        connection.exec_driver_sql(
            "WITH missed AS (SELECT call_id, task_id,"
            " row_number() OVER (PARTITION BY task_id ORDER BY id) AS nth FROM attempt"
            f" WHERE outcome <> 'ok' AND NOT ({_UNRUN})"
            " AND (SELECT run_id FROM call WHERE call.id = attempt.call_id) = ?)"
            " SELECT count(*) FROM (SELECT call_id FROM missed WHERE nth > 1"
            # What came after the last miss was well, unless it is still under way or was no request.
            " UNION SELECT task.call_id FROM missed JOIN task ON task.id = missed.task_id"
            " JOIN call ON call.id = task.call_id WHERE missed.nth = 1 AND task.call_id <> missed.call_id"
            " AND call.run_id = ? AND task.state NOT IN ('in_flight', 'batched') AND task.call_id NOT IN"
            f"  (SELECT call_id FROM attempt WHERE outcome <> 'ok' AND ({_UNRUN})))",
            (run_id, run_id),
        ).scalar_one()
    )


def has_called(connection: Connection, run_id: int) -> bool:
    """Whether a run has made a call yet."""
    return (
        connection.exec_driver_sql("SELECT 1 FROM call WHERE run_id = ? LIMIT 1", (run_id,)).first()
        is not None
    )


def paid(connection: Connection, run_id: int) -> int | None:
    """What a run's answers have cost so far in pico-dollars, as far as it is known; None if of none of them."""
    cost, priced, answers = connection.exec_driver_sql(
        "SELECT coalesce(sum(answer.cost), 0), count(answer.cost), count(*)"
        " FROM call JOIN answer ON answer.call_id = call.id WHERE call.run_id = ?",
        (run_id,),
    ).one()
    return None if answers and not priced else int(cost)


def spent(connection: Connection, run_id: int) -> int:
    """What a run has spent so far in pico-dollars, each ambiguous or unpriced call at its worst case."""
    answered = connection.exec_driver_sql(
        "SELECT coalesce(sum(coalesce(answer.cost, call.reserved)), 0)"
        " FROM call JOIN answer ON answer.call_id = call.id WHERE call.run_id = ?",
        (run_id,),
    ).scalar_one()
    refused = connection.exec_driver_sql(
        "SELECT coalesce(sum(coalesce(answer.cost, call.reserved)), 0)"
        " FROM call JOIN answer ON answer.call_id = call.id WHERE call.run_id = ?"
        # A 200 that says that it was refused, for speed or for money, was not executed.
        " AND call.id IN (SELECT call_id FROM attempt WHERE outcome <> 'ok'"
        f" AND kind IN ('{Kind.RATE_LIMITED}', '{Kind.OVERLOADED}', '{Kind.NO_MONEY}'))",
        (run_id,),
    ).scalar_one()
    risked = connection.exec_driver_sql(
        "SELECT coalesce(sum(reserved), 0) FROM call WHERE run_id = ? AND id IN"
        " (SELECT call_id FROM attempt WHERE outcome <> 'ok' AND outcome = 'ambiguous')"
        " AND NOT EXISTS (SELECT 1 FROM answer WHERE answer.call_id = call.id)",
        (run_id,),
    ).scalar_one()
    return int(answered) - int(refused) + int(risked)


def set_aside(connection: Connection, run_id: int) -> int:
    """What the rows of a run that are out in batches can come to, in pico-dollars, as far as it is known."""
    return int(
        connection.exec_driver_sql(
            "SELECT coalesce(sum(call.reserved), 0) FROM task JOIN call ON call.id = task.call_id"
            " WHERE task.run_id = ? AND task.state = 'batched'",
            (run_id,),
        ).scalar_one()
    )


def asked_again(connection: Connection, run_id: int) -> dict[tuple[str, str | None], Sums]:
    """What a run has paid for answers that no row shows any more, because `runner retry` asked again; by model and
    tier.

    They are no rows of their own."""
    found = connection.exec_driver_sql(
        "SELECT coalesce(answer.model, 'unknown'), answer.tier, 0, coalesce(sum(input_tokens), 0),"
        " coalesce(sum(cached_input_tokens), 0), coalesce(sum(cache_write_tokens), 0),"
        " coalesce(sum(output_tokens), 0), coalesce(sum(reasoning_tokens), 0), coalesce(sum(total_tokens), 0),"
        " coalesce(sum(cost), 0), count(cost), count(*) - count(cost) FROM call"
        " JOIN attempt ON attempt.call_id = call.id AND attempt.outcome = 'ok'"
        " JOIN task ON task.id = attempt.task_id"
        " JOIN answer ON answer.call_id = call.id AND answer.id IS NOT task.answer_id"
        " WHERE call.run_id = ? GROUP BY 1, 2",
        (run_id,),
    )
    return {(model, tier): Sums(*counts) for model, tier, *counts in found}


def unfinished(connection: Connection, run_id: int) -> int:
    """Rows of a run that still have no final answer: not expanded yet, waiting, in flight or out in a batch, of this
    run or another. Those that are to be looked at again may be more than it turns out."""
    on_the_way = sum(_tasks(connection, run_id, state) for state in _ON_THE_WAY)
    series_id, rows = connection.exec_driver_sql(
        "SELECT series_id, rows_in - rows_invalid FROM run WHERE id = ?", (run_id,)
    ).one()
    elsewhere = batches.waiting_elsewhere(connection, run_id, series_id)
    left = on_the_way + elsewhere + _unexpanded(connection, run_id)
    # Rows that are looked at again may be among those on their way.
    return min(left, int(rows)) if rows else left


def out_in_batches(connection: Connection, run_id: int) -> tuple[int, int]:
    """How many batches of a run have not ended, and how many of its tasks are out in them."""
    out = connection.exec_driver_sql(
        "SELECT count(*) FROM batch WHERE run_id = ? AND ended_at IS NULL", (run_id,)
    ).scalar_one()
    return int(out), _tasks(connection, run_id, TaskState.BATCHED)


def _unexpanded(connection: Connection, run_id: int) -> int:
    """The good rows of a run that have not been looked at for their tasks."""
    first, last = span(run_id)
    rows_in, expanded_to, newest = connection.exec_driver_sql(
        "SELECT rows_in, max(expanded_to, ?), (SELECT max(id) FROM row WHERE id BETWEEN ? AND ?)"
        " FROM run WHERE id = ?",
        (first, first, last, run_id),
    ).one()
    if newest is None or newest <= expanded_to:
        return 0
    if line_of(newest) == rows_in:
        # As many rows as lines: none was blank, so the lines that are left are rows.
        left = newest - expanded_to
    else:
        left = connection.exec_driver_sql(
            "SELECT count(*) FROM row WHERE id > ? AND id <= ?", (expanded_to, last)
        ).scalar_one()
    bad = connection.exec_driver_sql(
        "SELECT count(*) FROM row WHERE id > ? AND id <= ? AND fault IS NOT NULL", (expanded_to, last)
    ).scalar_one()
    return int(left) - int(bad)


def by_state(connection: Connection, run_id: int) -> dict[str, int]:
    """How many of the tasks that a run asks stand where."""
    counted = {state.value: _tasks(connection, run_id, state) for state in TaskState}
    return {state: count for state, count in counted.items() if count}


def held(connection: Connection, run_id: int) -> int:
    """Tasks whose fate is unknown and which wait for the user to decide."""
    return _tasks(connection, run_id, TaskState.HELD)


def _tasks(connection: Connection, run_id: int, state: TaskState) -> int:
    # The state stands in the statement: only so does SQLite see that it is the condition of an index.
    return int(
        connection.exec_driver_sql(
            f"SELECT count(*) FROM task WHERE run_id = ? AND state = '{state}'", (run_id,)
        ).scalar_one()
    )


def commonest_errors(
    connection: Connection, run_id: int, limit: int = 5
) -> list[tuple[str, int | None, int]]:
    """The commonest codes that calls of a run ended with: code, HTTP status, how many calls."""
    found = connection.exec_driver_sql(
        "SELECT code, status, count(DISTINCT call_id) AS times FROM attempt WHERE outcome <> 'ok'"
        " AND (SELECT run_id FROM call WHERE call.id = attempt.call_id) = ? AND code <> 'not_started'"
        " GROUP BY code, status ORDER BY times DESC, code LIMIT ?",
        (run_id, limit),
    )
    return [(code or "", status, times) for code, status, times in found]
