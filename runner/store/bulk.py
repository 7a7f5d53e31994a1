"""Many rows in one statement: `{rows}` in its text stands for as many lists of values as there are rows.

The driver lets other threads run after each step of a statement, and a row of `executemany` is a step: beside a
busy event loop that costs more than the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy import Connection

CHUNKS = (256, 64, 16, 4, 1)
"""How many rows go into one statement; few sizes, so that each is prepared once."""


def run(connection: Connection, sql: str, rows: Sequence[Sequence[object]]) -> int:
    """Run a statement over all rows, which are of one width; how many rows of a table it changed."""
    changed = place = 0
    left = len(rows)
    for size in CHUNKS:
        while left >= size:
            values = [value for row in rows[place : place + size] for value in row]
            changed += connection.exec_driver_sql(_text(sql, size, len(rows[place])), tuple(values)).rowcount
            place += size
            left -= size
    return changed


@lru_cache(maxsize=64)
def _text(sql: str, count: int, width: int) -> str:
    one = f"({', '.join('?' * width)})"
    return sql.replace("{rows}", ", ".join([one] * count))
