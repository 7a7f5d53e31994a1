"""Many rows in one statement: all of them, in order, however they are cut into statements."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, create_engine

from runner.store import bulk
from runner.store.bulk import FEW_ROWS, MANY_ROWS, MOST_VALUES

MOST = max(MANY_ROWS)
COUNTS = [0, 1, FEW_ROWS, FEW_ROWS + 1, MOST - 1, MOST, MOST + 1, 2 * MOST + FEW_ROWS + 3]


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.begin() as opened:
        yield opened
    engine.dispose()


@pytest.mark.parametrize("count", COUNTS)
def test_every_row_is_written_once_and_found_in_order(connection: Connection, count: int) -> None:
    rows = [(n, f"text {n}") for n in range(count)]
    connection.exec_driver_sql("CREATE TABLE t (number INTEGER, text TEXT)")
    assert bulk.run(connection, "INSERT INTO t VALUES {rows}", rows) == count
    changed = bulk.run(
        connection,
        "UPDATE t SET text = new.column2 FROM (VALUES {rows}) AS new WHERE number = new.column1",
        [(n, f"new {n}") for n in range(0, count, 2)],
    )
    assert changed == (count + 1) // 2
    found = bulk.find(
        connection,
        "SELECT number, text FROM (VALUES {rows}) AS given JOIN t ON number = given.column1 WHERE number <> ?",
        [(n,) for n in range(count)],
        5,
    )
    wanted = [(n, f"{'text' if n % 2 else 'new'} {n}") for n in range(count) if n != 5]
    assert sorted(found) == wanted


@pytest.mark.parametrize("width", [2, 10, 15, 16, 31, MOST_VALUES // FEW_ROWS])
def test_rows_of_any_width_are_within_what_the_driver_takes(connection: Connection, width: int) -> None:
    columns = ", ".join(f"c{n}" for n in range(width))
    connection.exec_driver_sql(f"CREATE TABLE t ({columns})")
    rows = [tuple(range(width))] * (MOST + FEW_ROWS + 1)
    assert bulk.run(connection, "INSERT INTO t VALUES {rows}", rows) == len(rows)
