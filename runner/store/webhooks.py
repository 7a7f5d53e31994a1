"""Webhooks: which deliveries came, each kept once, as hints for whoever waits for a batch."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from runner.store.clock import now

MOST_KEPT = 100_000
"""Deliveries that are remembered; a sender repeats one for three days at the most."""


def note(connection: Connection, deliveries: Sequence[tuple[str, str, str]]) -> list[bool]:
    """Keep deliveries, each as (its id, the remote batch's id, the event's type); for each whether it is new."""
    at = now()
    new = [
        connection.exec_driver_sql(
            "INSERT INTO webhook (id, batch, type, received_at) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            (*one, at),
        ).rowcount
        == 1
        for one in deliveries
    ]
    # The newest stays, so that no number is given again.
    connection.exec_driver_sql(
        "DELETE FROM webhook WHERE number <= (SELECT max(number) FROM webhook) - ?", (MOST_KEPT,)
    )
    return new


def hints(connection: Connection, after: int) -> tuple[int, list[str]]:
    """The remote ids of the batches that deliveries after that number spoke of, and the number of the newest."""
    found = connection.exec_driver_sql(
        "SELECT number, batch FROM webhook WHERE number > ? ORDER BY number", (after,)
    ).fetchall()
    newest = int(found[-1][0]) if found else after
    return newest, list(dict.fromkeys(str(one[1]) for one in found))
