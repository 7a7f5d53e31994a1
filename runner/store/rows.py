"""Rows: what came in, line by line, and reading it back in input order with what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import starmap
from typing import NamedTuple

import msgspec
import orjson
from sqlalchemy import Connection

from runner.errors import LineFault
from runner.store import bulk
from runner.store.runs import line_of, span

READING_ENDED = frozenset({"truncated_file", "bomb", "unsupported_file", "encoding"})
"""The codes of faults after which an input could not be read on."""


class NewRow(msgspec.Struct, frozen=True, gc=False):
    """A row as ingest has found it. `key` is None where the line number is the key; `hash` is the SHA-256 of
    what it asks; `fault` the JSON of what is wrong with it."""

    id: int
    key: str | None
    record: bytes
    hash: bytes | None
    fault: str | None


class Settled(msgspec.Struct, frozen=True, gc=False):
    """A row with what became of it; the fields from `state` on are None where nothing has.

    `items` says how many tasks share the answer. Where they are several, `body` is None: it is read through
    `answers.SharedBody`, and tokens and cost are those of all of them.
    """

    id: int
    key: str | None
    record: bytes
    row_fault: str | None
    state: str | None
    attempts: int | None
    finish_reason: str | None
    fault: str | None
    error: str | None
    asked_by_run: int | None
    asked_by_row: int | None
    item: int | None
    body: bytes | None
    checksum: bytes | None
    status: int | None
    request_id: str | None
    model: str | None
    tier: str | None
    input_tokens: int | None
    cached_input_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    total_tokens: int | None
    cost: int | None
    answer_id: int | None
    items: int | None


def add(connection: Connection, rows: list[NewRow]) -> None:
    """Store rows of a run that is being ingested."""
    # The plain driver: these are the statements that a million waiting rows cost.
    good: list[tuple[object, ...]] = []
    faulty: list[tuple[object, ...]] = []
    for row in rows:
        if row.fault is None and row.hash is not None:
            good.append((row.id, row.key, bulk.blob(row.record), bytearray(row.hash)))
        else:
            faulty.append((row.id, row.key, row.record, row.hash, row.fault))
    if good:
        connection.exec_driver_sql("INSERT INTO row (id, key, record, hash) VALUES (?, ?, ?, ?)", good)
    if faulty:
        connection.exec_driver_sql(
            "INSERT INTO row (id, key, record, hash, fault) VALUES (?, ?, ?, ?, ?)", faulty
        )


def refuse_repeated_keys(connection: Connection, run_id: int) -> int:
    """Mark each row whose key an earlier row of the run bears; how many there are."""
    first, last = span(run_id)
    marked = 0
    repeated = connection.exec_driver_sql(
        "SELECT key FROM row WHERE id BETWEEN ? AND ? AND key IS NOT NULL GROUP BY key HAVING count(*) > 1",
        (first, last),
    ).fetchall()
    if not repeated:
        return 0
    keys = {key for (key,) in repeated}
    seen: dict[str, int] = {}
    bearers = connection.exec_driver_sql(
        "SELECT id, key FROM row WHERE id BETWEEN ? AND ? AND key IS NOT NULL AND fault IS NULL",
        (first, last),
    )
    faults = []
    for number, key in bearers:
        if key not in keys:
            continue
        line = line_of(number)
        if key in seen:
            text = f"the key {_shown(key)} stands on line {seen[key]} already"
            faults.append((fault_text("duplicate_key", text), number))
        else:
            seen[key] = line
    if faults:
        marked = len(faults)
        connection.exec_driver_sql("UPDATE row SET fault = ? WHERE id = ?", faults)
    return marked


def number_repeats(connection: Connection, run_id: int) -> None:
    """Give equal questions of a run their occurrence numbers, in input order, from 0."""
    repeated = connection.exec_driver_sql(
        "SELECT 1 FROM row WHERE id BETWEEN ? AND ? AND hash IS NOT NULL AND fault IS NULL"
        " GROUP BY hash HAVING count(*) > 1 LIMIT 1",
        span(run_id),
    )
    # To number all of them costs twice as much as to see that there is nothing to number.
    if repeated.first() is None:
        return
    connection.exec_driver_sql(
        "UPDATE row SET occurrence = counted.occurrence FROM ("
        " SELECT id, row_number() OVER (PARTITION BY hash ORDER BY id) - 1 AS occurrence FROM row"
        " WHERE id BETWEEN ? AND ? AND hash IS NOT NULL AND fault IS NULL"
        ") AS counted WHERE row.id = counted.id AND counted.occurrence > 0",
        span(run_id),
    )


def faults(connection: Connection, run_id: int) -> Iterator[LineFault]:
    """What is wrong with the lines of a run, in input order."""
    found = connection.exec_driver_sql(
        "SELECT id, key, fault FROM row WHERE id BETWEEN ? AND ? AND fault IS NOT NULL ORDER BY id",
        span(run_id),
    )
    for number, key, fault in found:
        for one in orjson.loads(fault):
            yield LineFault(line_of(number), one["code"], one["message"], key)


def ends_early(connection: Connection, run_id: int) -> int | None:
    """The line at which an input could be read no further, if there is one: nobody knows what came after it."""
    first, last = span(run_id)
    found = connection.exec_driver_sql(
        "SELECT id, fault FROM row WHERE id BETWEEN ? AND ? AND fault IS NOT NULL ORDER BY id DESC LIMIT 1",
        (first, last),
    ).first()
    if found is None or orjson.loads(found[1])[0]["code"] not in READING_ENDED:
        return None
    return line_of(found[0])


def settled(connection: Connection, run_id: int, series_id: int) -> Iterator[Settled]:
    """The rows of a run in input order, each with its task and its answer. Memory stays flat."""
    first, last = span(run_id)
    found = connection.exec_driver_sql(
        "SELECT row.id, row.key, row.record, row.fault, task.state, task.attempts, task.finish_reason,"
        " task.fault, task.error, task.run_id, task.row_id, task.item,"
        " CASE answer.items WHEN 1 THEN answer.body END, answer.checksum,"
        " answer.status, answer.request_id, answer.model, answer.tier, answer.input_tokens,"
        " answer.cached_input_tokens, answer.cache_write_tokens, answer.output_tokens,"
        " answer.reasoning_tokens, answer.total_tokens, answer.cost, answer.id, answer.items"
        " FROM row LEFT JOIN task ON row.fault IS NULL AND task.series_id = ? AND task.hash = row.hash"
        " AND task.occurrence = row.occurrence"
        " LEFT JOIN answer ON answer.id = task.answer_id WHERE row.id BETWEEN ? AND ? ORDER BY row.id",
        (series_id, first, last),
    )
    while chunk := found.cursor.fetchmany(256):
        yield from starmap(Settled, chunk)


def good_records(connection: Connection, run_id: int) -> Iterator[tuple[int, bytes]]:
    """The rows of a run that can be asked, in input order: the line's number and the record."""
    found = connection.exec_driver_sql(
        "SELECT id, record FROM row WHERE id BETWEEN ? AND ? AND fault IS NULL ORDER BY id", span(run_id)
    )
    for number, text in found:
        yield line_of(number), text


def open_records(connection: Connection, run_id: int) -> Iterator[tuple[int, bytes]]:
    """The rows of a run that may still be asked: the line's number and the record."""
    found = connection.exec_driver_sql(
        "SELECT row.id, row.record FROM task JOIN row ON row.id = task.row_id"
        " WHERE task.run_id = ? AND task.state = 'ready' ORDER BY task.due_at, task.row_id",
        (run_id,),
    )
    for number, text in found:
        yield line_of(number), text
    first, last = span(run_id)
    found = connection.exec_driver_sql(
        "SELECT id, record FROM row WHERE id > (SELECT max(expanded_to, ?) FROM run WHERE id = ?) AND id <= ?"
        " AND fault IS NULL ORDER BY id",
        (first, run_id, last),
    )
    for number, text in found:
        yield line_of(number), text


class GoodQuestion(NamedTuple):
    """A row that can be asked. `is_repeat` says that an earlier row of the run asks the same."""

    hash: bytes
    occurrence: int
    record: bytes
    is_repeat: bool


def good_questions(connection: Connection, run_id: int) -> Iterator[GoodQuestion]:
    """What the good rows of a run ask, equal questions side by side."""
    found = connection.exec_driver_sql(
        "SELECT hash, occurrence, record FROM row WHERE id BETWEEN ? AND ? AND fault IS NULL ORDER BY hash, id",
        span(run_id),
    )
    last = b""
    for hash_, occurrence, text in found:
        yield GoodQuestion(hash_, occurrence, text, hash_ == last)
        last = hash_


def fault_text(code: str, message: str) -> str:
    """The JSON of one fault, as a row keeps it."""
    return faults_text([(code, message)])


def faults_text(found: Iterable[tuple[str, str]]) -> str:
    return orjson.dumps([{"code": code, "message": message} for code, message in found]).decode()


def _shown(key: str) -> str:
    shown = key if len(key) <= 80 else key[:77] + "..."
    return orjson.dumps(shown).decode() if shown.isprintable() else ascii(shown)
