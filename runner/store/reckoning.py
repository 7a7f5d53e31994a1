"""What batches say that they have used, beside what their rows' answers say."""

from __future__ import annotations

from typing import NamedTuple

import orjson
from sqlalchemy import Connection


class Tokens(NamedTuple):
    """Tokens that were charged."""

    input: int
    output: int
    total: int


class Reckoned(NamedTuple):
    """A batch that says what it has used, and the sum over the answers that its lines brought."""

    batch: str
    said: Tokens
    rows: Tokens


class Reckoning(NamedTuple):
    """How many batches of a run were submitted, and those of them that say what they have used."""

    submitted: int
    said: list[Reckoned]


def reckon(connection: Connection, run_id: int) -> Reckoning:
    """Hold the batches of a run against its answers."""
    found = connection.exec_driver_sql(
        "SELECT id, remote_id, first_call, lines, seen FROM batch WHERE run_id = ? AND remote_id IS NOT NULL"
        " ORDER BY id",
        (run_id,),
    ).fetchall()
    said = []
    for number, remote_id, first, lines, seen in found:
        own = _said(seen)
        if own is not None:
            rows = connection.exec_driver_sql(
                "SELECT coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),"
                " coalesce(sum(total_tokens), 0) FROM answer WHERE call_id BETWEEN ? AND ?"
                # A number can be given again once a batch is dissolved.
                " AND (SELECT batch_id FROM call WHERE call.id = answer.call_id) = ?",
                (first, first + lines - 1, number),
            ).one()
            said.append(Reckoned(remote_id, own, Tokens(*rows)))
    return Reckoning(len(found), said)


def _said(seen: str | None) -> Tokens | None:
    """The usage that a batch last named; servers that name none show nothing, or zeros."""
    usage = None if seen is None else orjson.loads(seen)["usage"]
    if usage is None:
        return None
    tokens = Tokens(usage["input"], usage["output"], usage["total"])
    return tokens if any(tokens) else None
