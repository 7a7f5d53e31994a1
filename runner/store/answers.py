"""Answers: the stored bodies that many rows share, read a part at a time."""

from __future__ import annotations

import hashlib
import sqlite3
from types import TracebackType
from typing import Self

from sqlalchemy import Connection

_AT_ONCE = 2**20


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
        """What `tasks.checksum` gives for the whole body."""
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
