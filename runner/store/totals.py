"""Totals: what a run's attempts came to, and where its tasks stand."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from runner.model import Kind, Sums
from runner.store.runs import row_id
from runner.store.schema import LINE_BITS


@dataclass(frozen=True, slots=True)
class Attempts:
    """What the attempts of a run came to.

    `requests` left for the server, `retries` are those beyond each task's first, `rate_limited` were refused
    for speed, `ambiguous` may have been charged without an answer; `at_risk` is their worst case in
    pico-dollars, None where none of them could be priced.
    """

    requests: int
    retries: int
    rate_limited: int
    ambiguous: int
    at_risk: int | None


def attempts(connection: Connection, run_id: int) -> Attempts:
    found = connection.exec_driver_sql(
        "SELECT count(*), count(DISTINCT attempt.task_id),"
        " coalesce(sum(attempt.kind = 'rate_limited'), 0), coalesce(sum(attempt.outcome = 'ambiguous'), 0),"
        " sum(CASE WHEN attempt.outcome = 'ambiguous' THEN call.reserved END)"
        " FROM call JOIN attempt ON attempt.call_id = call.id"
        " WHERE call.run_id = ? AND attempt.outcome <> 'not_sent'",
        (run_id,),
    ).one()
    sent, tasks, limited, ambiguous, at_risk = found
    if not ambiguous:
        at_risk = 0
    return Attempts(sent, sent - tasks, limited, ambiguous, at_risk)


def spent(connection: Connection, run_id: int) -> int:
    """What a run has spent so far in pico-dollars, each ambiguous or unpriced call at its worst case."""
    known = connection.exec_driver_sql(
        "SELECT coalesce(sum(coalesce(answer.cost, call.reserved)), 0)"
        " FROM call JOIN answer ON answer.call_id = call.id WHERE call.run_id = ?"
        # A 200 that says that it was refused, for speed or for money, was not executed.
        " AND NOT EXISTS (SELECT 1 FROM attempt WHERE attempt.call_id = call.id"
        f" AND attempt.kind IN ('{Kind.RATE_LIMITED}', '{Kind.OVERLOADED}', '{Kind.NO_MONEY}'))",
        (run_id,),
    ).scalar_one()
    risked = connection.exec_driver_sql(
        "SELECT coalesce(sum(call.reserved), 0) FROM call WHERE call.run_id = ? AND EXISTS"
        " (SELECT 1 FROM attempt WHERE attempt.call_id = call.id AND attempt.outcome = 'ambiguous')"
        " AND NOT EXISTS (SELECT 1 FROM answer WHERE answer.call_id = call.id)",
        (run_id,),
    ).scalar_one()
    return int(known) + int(risked)


def asked_again(connection: Connection, run_id: int) -> dict[str, Sums]:
    """What a run has paid for answers that no row shows any more, because `runner retry` asked again; by model.

    They are no rows of their own."""
    found = connection.exec_driver_sql(
        "SELECT coalesce(answer.model, 'unknown'), 0, coalesce(sum(input_tokens), 0),"
        " coalesce(sum(cached_input_tokens), 0), coalesce(sum(cache_write_tokens), 0),"
        " coalesce(sum(output_tokens), 0), coalesce(sum(reasoning_tokens), 0), coalesce(sum(total_tokens), 0),"
        " coalesce(sum(cost), 0), count(cost), count(*) - count(cost) FROM call"
        " JOIN attempt ON attempt.call_id = call.id AND attempt.outcome = 'ok'"
        " JOIN task ON task.id = attempt.task_id"
        " JOIN answer ON answer.call_id = call.id AND answer.id IS NOT task.answer_id"
        " WHERE call.run_id = ? GROUP BY 1",
        (run_id,),
    )
    return {model: Sums(*counts) for model, *counts in found}


def unfinished(connection: Connection, run_id: int) -> int:
    """Rows of a run that still have no final answer: not expanded yet, waiting, in flight or held."""
    waiting = connection.exec_driver_sql(
        "SELECT count(*) FROM task WHERE run_id = ? AND state = 'ready'", (run_id,)
    ).scalar_one()
    unexpanded = connection.exec_driver_sql(
        "SELECT count(*) FROM row WHERE id > (SELECT max(expanded_to, ?) FROM run WHERE id = ?) AND id <= ?"
        " AND fault IS NULL",
        (row_id(run_id, 0), run_id, row_id(run_id, (1 << LINE_BITS) - 1)),
    ).scalar_one()
    flying = connection.exec_driver_sql(
        "SELECT count(*) FROM task WHERE run_id = ? AND state = 'in_flight'", (run_id,)
    ).scalar_one()
    return int(waiting) + int(unexpanded) + int(flying)


def by_state(connection: Connection, run_id: int) -> dict[str, int]:
    """How many of the tasks that a run asks stand where."""
    found = connection.exec_driver_sql(
        "SELECT state, count(*) FROM task WHERE run_id = ? GROUP BY state", (run_id,)
    )
    return {str(state): int(count) for state, count in found}


def held(connection: Connection, run_id: int) -> int:
    """Tasks whose fate is unknown and which wait for the user to decide."""
    return int(
        connection.exec_driver_sql(
            "SELECT count(*) FROM task WHERE run_id = ? AND state = 'held'", (run_id,)
        ).scalar_one()
    )


def commonest_errors(
    connection: Connection, run_id: int, limit: int = 5
) -> list[tuple[str, int | None, int]]:
    """The commonest codes that attempts of a run ended with: code, HTTP status, how often."""
    found = connection.exec_driver_sql(
        "SELECT attempt.code, attempt.status, count(*) AS times FROM call"
        " JOIN attempt ON attempt.call_id = call.id WHERE call.run_id = ? AND attempt.outcome <> 'ok'"
        " AND attempt.code <> 'not_started'"
        " GROUP BY attempt.code, attempt.status ORDER BY times DESC, attempt.code LIMIT ?",
        (run_id, limit),
    )
    return [(code or "", status, times) for code, status, times in found]
