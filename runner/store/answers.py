"""Answers: what was paid for, as it came; whether the stored bodies are whole; those that many rows share, read a part
at a time; and those that have no price yet.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import msgspec
from sqlalchemy import Connection

from runner.model import Usage
from runner.store import bulk

_AT_ONCE = 2**20
_UNKNOWN = (None,) * 6


def checksum(body: bytes) -> bytes:
    """What tells whether a stored body is still the one that was paid for: BLAKE2b, 16 bytes."""
    return hashlib.blake2b(body, digest_size=16).digest()


class NewAnswer(msgspec.Struct, frozen=True, gc=False):
    """The body of a 200, with what could be read of it. `items` is how many tasks the call carried; `summing` gives
    the checksum where somebody has begun to find it."""

    status: int
    request_id: str | None
    body: bytes
    model: str | None
    tier: str | None
    usage: Usage | None
    cost: int | None
    items: int = 1
    summing: Callable[[], bytes] | None = None

    @property
    def checksum(self) -> bytes:
        """Found when it is written at the latest, and never by who settles."""
        return checksum(self.body) if self.summing is None else self.summing()


def add(connection: Connection, brought: Sequence[tuple[int, NewAnswer]], at: int) -> int:
    """Store the answers that calls have brought, at least one, each with its call's number, as received `at` that time;
    the number of the first, of which the others' follow."""
    return bulk.add(
        connection,
        "INSERT INTO answer (call_id, status, request_id, body, checksum, model, tier, input_tokens,"
        " cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, total_tokens, cost,"
        " items, received_at) VALUES {rows}",
        [_values(call_id, one, at) for call_id, one in brought],
    )


def _values(call_id: int, one: NewAnswer, at: int) -> tuple[object, ...]:
    usage = one.usage
    counts: tuple[int | None, ...] = _UNKNOWN if usage is None else (
        usage.input, usage.cached_input, usage.cache_write, usage.output, usage.reasoning, usage.total,
    )  # fmt: skip
    return (
        call_id, one.status, one.request_id, bulk.blob(one.body), bulk.blob(one.checksum), one.model, one.tier,
        *counts, one.cost, one.items, at,
    )  # fmt: skip


class SharedBody:
    """The body of one stored answer, open for reading as long as its connection is. `size` is in bytes."""

    def __init__(self, connection: Connection, answer_id: int) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        self._blob = driver.blobopen("answer", "body", answer_id, readonly=True)
        self.size = len(self._blob)

    def part(self, start: int, length: int) -> bytes:
        """Some bytes of the body; fewer where it ends before."""
        self._blob.seek(start)
        return self._blob.read(length)

    def checksum(self) -> bytes:
        """What the function of that name gives for the whole body, found part by part."""
        found = hashlib.blake2b(digest_size=16)
        for start in range(0, self.size, _AT_ONCE):
            found.update(self.part(start, _AT_ONCE))
        return found.digest()

    def close(self) -> None:
        self._blob.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check(connection: Connection) -> tuple[int, int]:
    """Hold every stored answer against its checksum: how many there are, and how many are damaged."""
    count = damaged = 0
    for body, kept in connection.exec_driver_sql("SELECT body, checksum FROM answer"):
        count += 1
        damaged += not isinstance(body, bytes) or checksum(body) != kept
    return count, damaged


class Unpriced(NamedTuple):
    """An answer whose usage is known and whose cost is not."""

    answer_id: int
    model: str
    tier: str | None
    usage: Usage


def unpriced(connection: Connection, series_id: int, *, after: int, limit: int) -> list[Unpriced]:
    """Some of the answers of a series that could not be priced when they came, from the id `after` on."""
    found = connection.exec_driver_sql(
        "SELECT answer.id, answer.model, tier, input_tokens, cached_input_tokens, cache_write_tokens,"
        " output_tokens, reasoning_tokens, total_tokens FROM call JOIN answer ON answer.call_id = call.id"
        " WHERE call.run_id IN (SELECT id FROM run WHERE series_id = ?) AND answer.id > ? AND cost IS NULL"
        " AND input_tokens IS NOT NULL AND answer.model IS NOT NULL ORDER BY answer.id LIMIT ?",
        (series_id, after, limit),
    )
    return [Unpriced(one[0], one[1], one[2], Usage(*one[3:])) for one in found]


def set_costs(connection: Connection, costs: Sequence[tuple[int, int]]) -> None:
    """Give answers the costs, in pico-dollars, that they had none of: (cost, answer id)."""
    if costs:
        connection.exec_driver_sql("UPDATE answer SET cost = ? WHERE id = ? AND cost IS NULL", list(costs))
