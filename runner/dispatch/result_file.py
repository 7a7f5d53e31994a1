"""The result files of a batch line by line, and the file that keeps what belongs to no row."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from runner.errors import StoreUnusable
from runner.store.faults import DiskFull

MAX_LINE = 256 * 2**20
"""The longest line that is read, in bytes: as much as an answer may have online."""

_UTF8_MARK = b"\xef\xbb\xbf"
_HEAD = 2**16
_BLOCK = 2**20
_BUFFER = 2**18
_ODD = re.compile(r"[^A-Za-z0-9_-]")


class LongLine(NamedTuple):
    """A line that is too long to be read: where it stands in its file, its size in bytes, and how it begins."""

    path: Path
    start: int
    size: int
    head: bytes


class ResultFile:
    """One of a batch's result files, open for reading. All that reads raises StoreUnusable."""

    def __init__(self, path: Path, max_line: int = MAX_LINE) -> None:
        self._path = path
        self._max_line = max_line
        try:
            self._file = path.open("rb", _BUFFER)
        except OSError as error:
            raise self.unreadable(error.strerror or str(error)) from error

    def lines(self) -> Iterator[tuple[int, bytes | LongLine]]:
        """The lines, which end at a line feed alone, without it, and where each starts; the last may have none. Blank
        lines and byte order marks are left out."""
        file, most, end = self._file, self._max_line, 0
        try:
            file.seek(0)
            while line := file.readline(most):
                start = end
                if len(line) == most and line[-1] != 0x0A:
                    long = _long_line(self._path, file, line)
                    end = file.tell()
                    yield start, long
                    continue
                end += len(line)
                if line.startswith(_UTF8_MARK):
                    start, line = start + len(_UTF8_MARK), line[len(_UTF8_MARK) :]
                if not line.isspace() and line:
                    yield start, line[:-1] if line[-1] == 0x0A else line
        except OSError as error:
            raise self.unreadable(error.strerror or str(error)) from error

    def at(self, start: int, size: int) -> bytes:
        """The bytes of a line that starts there."""
        try:
            return os.pread(self._file.fileno(), size, start)
        except OSError as error:
            raise self.unreadable(error.strerror or str(error)) from error

    def unreadable(self, why: str) -> StoreUnusable:
        """The error that says that the file cannot be read."""
        return StoreUnusable(
            f"The results {self._path} cannot be read: {why}. They are fetched again if you delete the file and run "
            "the same command again."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _long_line(path: Path, file: BinaryIO, beginning: bytes) -> LongLine:
    size = len(beginning)
    while piece := file.readline(_BLOCK):
        size += len(piece)
        if piece[-1] == 0x0A:
            size -= 1
            break
    return LongLine(path, file.tell() - size - bool(piece), size, beginning[:_HEAD])


def result_lines(path: Path, max_line: int = MAX_LINE) -> Iterator[bytes | LongLine]:
    """The lines of a file, as `ResultFile.lines` has them. Raises StoreUnusable."""
    with ResultFile(path, max_line) as file:
        for _, line in file.lines():
            yield line


class Unmatched:
    """The lines of a batch's results that belong to no row, kept in a file: each may be an answer that was paid.

    `path` is None until there is one. A line that the file has already is not added again. Raises DiskFull, or
    StoreUnusable where it cannot be written.
    """

    def __init__(self, folder: Path, remote_id: str, max_line: int = MAX_LINE) -> None:
        self._max_line = max_line
        # The id is the server's text: it may name no other folder.
        self._where = folder / f"{_ODD.sub('_', remote_id)[:100]}.unmatched.jsonl"
        self._had: set[int] | None = None
        self._file: BinaryIO | None = None

    @property
    def path(self) -> Path | None:
        return None if self._had is None else self._where

    def add(self, line: bytes | LongLine) -> None:
        """Keep one line."""
        try:
            if self._had is None:
                self._had = self._open()
            mark = _mark(line)
            if mark not in self._had and self._file is not None:
                self._had.add(mark)
                _write(self._file, line)
        except OSError as error:
            raise _unwritable(self._where, error) from error

    def _open(self) -> set[int]:
        self._where.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self._where, flags, 0o600), "ab")
        had = {_mark(line) for line in result_lines(self._where, self._max_line)}
        # A line that a crash has cut short stays what it is: one line.
        size = os.fstat(self._file.fileno()).st_size
        if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":
            self._file.write(b"\n")
        return had

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Put all that was added on disk."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            with file:
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self._where, error) from error


def _mark(line: bytes | LongLine) -> int:
    return hash(line) if isinstance(line, bytes) else hash((line.size, line.head))


def _write(file: BinaryIO, line: bytes | LongLine) -> None:
    if isinstance(line, bytes):
        file.write(line)
    else:
        with line.path.open("rb") as source:
            source.seek(line.start)
            left = line.size
            while left and (piece := source.read(min(_BLOCK, left))):
                file.write(piece)
                left -= len(piece)
    file.write(b"\n")


def _unwritable(path: Path, error: OSError) -> StoreUnusable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"The disk is full: {path} cannot be written. What was answered is kept. Free some space and run the "
            "same command again."
        )
    return StoreUnusable(
        f"{path} cannot be written: {error.strerror or error}. It keeps results that belong to no row: make its "
        "folder writable and run the same command again."
    )
