"""The checksum of a large body, found beside what else is done: it takes as long as writing the body does."""

from __future__ import annotations

import threading

from runner.store.answers import checksum

LARGE = 2**20
"""Bytes from which a thread of its own costs less than it saves."""


class Summing:
    """Finds the checksum of a body in a thread of its own; the calls that hash let other threads run."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._sum: bytes | None = None
        self._thread = threading.Thread(target=self._find, name="checksum", daemon=True)
        self._thread.start()

    def _find(self) -> None:
        self._sum = checksum(self._body)

    def __call__(self) -> bytes:
        """The checksum, once it is found."""
        self._thread.join()
        return checksum(self._body) if self._sum is None else self._sum
