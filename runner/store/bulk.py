"""Many rows in one statement: `{rows}` in its text stands for as many lists of values as there are rows.

The driver lets other threads run after each step of a statement, and a row of `executemany` is a step: beside a
busy event loop that costs more than the row. So it does after each statement, where thousands of rows come at once.

A statement that changes many rows and may be undone alone copies each page before it changes it, into a file of its
own where they are many. `OR FAIL` says that it need not: whatever fails here undoes the whole transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import Connection

FEW_ROWS = 64
"""Each count of rows below it is a statement of its own, which the driver keeps prepared."""

MANY_ROWS = (2_048, 1_024, 512, 256, 128, FEW_ROWS)
"""So many rows go into one statement, from the most down to few, so that any count takes few statements."""

COPIED_BYTES = 8_192

MOST_VALUES = 32_766
"""As many as one statement of SQLite takes."""


def blob(value: bytes) -> bytes | bytearray:
    """Bytes in the form in which the driver binds them soonest: up to Python 3.11 it looks first, at each of their type,
    whether somebody has told it how to adapt them, which takes as long as to copy a few thousand."""
    return bytearray(value) if len(value) <= COPIED_BYTES else value


def run(connection: Connection, sql: str, rows: Sequence[Sequence[object]]) -> int:
    """Run a statement over all rows, which are of one width; how many rows of a table it changed."""
    changed = 0
    driver = _driver(connection)
    for some in _parts(rows):
        values = tuple(chain.from_iterable(some))
        changed += driver.execute(_text(sql, len(some), len(some[0])), values).rowcount
    return changed


def find(
    connection: Connection, sql: str, rows: Sequence[Sequence[object]], *more: object
) -> Iterator[tuple[Any, ...]]:
    """What a query finds for all rows, which are of one width; `more` are the values that come after theirs."""
    driver = _driver(connection)
    for place in range(0, len(rows), FEW_ROWS):
        some = rows[place : place + FEW_ROWS]
        values = tuple(chain.from_iterable(some))
        yield from driver.execute(_text(sql, len(some), len(some[0])), values + more).fetchall()


def add(connection: Connection, sql: str, rows: Sequence[Sequence[object]]) -> int:
    """Insert rows, of one width and at least one, into a table that numbers them itself; the number of the first, of
    which the others' follow: no other process writes meanwhile."""
    driver = _driver(connection)
    last: int | None = None
    for some in _parts(rows):
        values = tuple(chain.from_iterable(some))
        last = driver.execute(_text(sql, len(some), len(some[0])), values).lastrowid
    assert last is not None
    return last - len(rows) + 1


def _driver(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def _parts(rows: Sequence[Sequence[object]]) -> Iterator[Sequence[Sequence[object]]]:
    place = 0
    for count in MANY_ROWS:
        while len(rows) - place >= count and count * len(rows[0]) <= MOST_VALUES:
            yield rows[place : place + count]
            place += count
    if place < len(rows):
        yield rows[place:]


@lru_cache(maxsize=512)
def _text(sql: str, count: int, width: int) -> str:
    one = f"({', '.join('?' * width)})"
    return sql.replace("{rows}", ", ".join([one] * count))
