"""A file of the spool: what goes to the Batch API, as it was written, until it is uploaded."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from runner.store.faults import unwritable
from runner.store.locks import lock_folder

_BUFFER = 2**18


def spool_of(store_path: Path, series_id: int) -> Path:
    """The folder in which a series' batches wait for their upload, or to be taken in: nothing of it is needed again
    by another start."""
    return lock_folder(store_path) / "batches" / str(series_id)


class SpoolFile:
    """A new file that only its owner can read, hashed as it is written; it goes unless it is kept.

    `size` counts bytes. Raises DiskFull, or StoreUnusable where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._hash = hashlib.sha256()
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._is_kept = False
        self.size = 0
        try:
            _make(folder)
            # A name that nobody has, made with O_EXCL and mode 0600.
            self._fd, name = tempfile.mkstemp(prefix="packing_", suffix=".jsonl", dir=folder)
        except OSError as error:
            raise unwritable(error, folder) from error
        self.path = Path(name)

    def write(self, data: bytes) -> None:
        """Add to the file."""
        self._buffer.append(data)
        self._buffered += len(data)
        if self._buffered >= _BUFFER:
            self._flush()

    def parts(self, spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """Parts of what was written, each by its start and its length."""
        self._flush()
        try:
            with self.path.open("rb") as source:
                for start, length in spans:
                    source.seek(start)
                    yield source.read(length)
        except OSError as error:
            raise unwritable(error, self.path) from error

    @property
    def sha256(self) -> str:
        """Of all that was written, in hex."""
        self._flush()
        return self._hash.hexdigest()

    def keep(self) -> Path:
        """Let the file stay; where it is."""
        self._flush()
        self._is_kept = True
        return self.path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            os.close(self._fd)
        if not self._is_kept:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._buffer:
            return
        data = b"".join(self._buffer)
        self._buffer.clear()
        self._buffered = 0
        self._hash.update(data)
        self.size += len(data)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            raise unwritable(error, self.path) from error


def _make(folder: Path) -> None:
    # `parents=True` would make those above with the mode of any folder.
    if not folder.parent.exists():
        _make(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
