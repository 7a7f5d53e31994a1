"""Tasks that are numbered one after another, as those of a packed call are: one statement moves them all."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

LEAST = 8
"""Spans that are shorter on the whole are written faster task by task, together with those of other calls."""


def of(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The first and the last of each span of numbers that follow one another; nothing where the spans are short."""
    found: list[tuple[int, int]] = []
    first = before = numbers[0]
    for number in numbers:
        if not 0 <= number - before <= 1:
            found.append((first, before))
            first = number
        before = number
    found.append((first, before))
    return found if LEAST * len(found) <= len(numbers) else []


def claim(connection: Connection, call_id: int, spans: Sequence[tuple[int, int]]) -> int:
    """Let a call take the ready tasks of some spans; how many there were."""
    return sum(
        connection.exec_driver_sql(
            "UPDATE OR FAIL task SET state = 'in_flight', call_id = ? WHERE id BETWEEN ? AND ? AND state = 'ready'",
            (call_id, first, last),
        ).rowcount
        for first, last in spans
    )


def settle(
    connection: Connection, count: int, attempt: tuple[object, ...] | None, move: tuple[object, ...]
) -> int:
    """Settle so many tasks of a call, as `tasks.settle` does the first of them; how many were as expected. What is
    written of the others differs in their items alone, which are numbered as they are."""
    to, due_at, tries, answer_id, item, finish_reason, fault, error, first, call_id = move
    assert isinstance(first, int)
    span = (first, first + count - 1)
    if attempt is not None:
        _, _, outcome, kind, status, code, request_id, ended_at = attempt
        connection.exec_driver_sql(
            "INSERT INTO attempt (call_id, task_id, outcome, kind, status, code, request_id, ended_at)"
            " SELECT ?, id, ?, ?, ?, ?, ?, ? FROM task WHERE id BETWEEN ? AND ?",
            (call_id, outcome, kind, status, code, request_id, ended_at, *span),
        )
    return connection.exec_driver_sql(
        "UPDATE OR FAIL task SET state = ?, due_at = ?, attempts = ?, answer_id = ?, item = ? + id - ?,"
        " finish_reason = ?, fault = ?, error = ?"
        " WHERE id BETWEEN ? AND ? AND call_id = ? AND state IN ('in_flight', 'batched')",
        (to, due_at, tries, answer_id, item, first, finish_reason, fault, error, *span, call_id),
    ).rowcount
