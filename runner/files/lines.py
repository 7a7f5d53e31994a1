"""JSONL in: its lines as bytes, each with its number, in memory that does not grow with the file."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeAlias

from runner.errors import BadInput, LineFault
from runner.files.compressed import BrokenStream, inflate, kind_of

MAX_LINE = 32 * 2**20
_READ = 2**20
# What has been read is not yet unpacked: small reads keep the measure of a bomb honest.
_READ_COMPRESSED = 2**16
_HEAD = 64
_BRACE = 0x7B
_UTF8_MARK = b"\xef\xbb\xbf"

Line: TypeAlias = tuple[int, bytes, LineFault | None]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells quickly that a file is not the one it was: size in bytes, time of change, inode."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of the file now. Raises OSError."""
        return cls.of_stat(path.stat())

    @classmethod
    def of_stat(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


def digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class LineReader:
    """Read a JSONL file, a pipe or an open stream line by line; iterate it once.

    Gives (number, data, fault): the physical line number from 1, the bytes without line end and without the
    byte order mark of the file, and what is wrong with them as a line, if anything: line_too_long,
    byte_order_mark, and encoding, truncated_file, bomb, unsupported_file, which end the reading. UTF-8 and
    JSON are left to `record`. Lines of white space are counted in `blank` and not given. With `limit`,
    reading stops after that many lines given.

    `sha256` is known at the end: that of the file as stored, or with a `limit`, which is to cost no further
    reading, that of the lines given, each with a line feed. Raises BadInput where there is nothing to read.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        stream: BinaryIO | None = None,
        max_line: int = MAX_LINE,
        limit: int | None = None,
    ) -> None:
        if (path is None) == (stream is None):
            raise ValueError("either a path or a stream")
        self._path = path
        self._stream = stream
        self._max_line = max_line
        self._limit = limit
        self._hash = hashlib.sha256()
        self._head = b""
        self._held: list[bytes] = []
        self._held_size = 0
        self.kind = "plain"
        self.stamp: Stamp | None = None
        self.blank = 0
        self.bytes_read = 0

    @property
    def name(self) -> str:
        """What messages call this input."""
        return "standard input" if self._path is None else str(self._path)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def changed(self) -> bool:
        """Whether the file is no longer the one that was opened. A pipe or stream never is."""
        if self._path is None or self.stamp is None:
            return False
        try:
            return Stamp.of(self._path) != self.stamp
        except OSError:
            return True

    def __enter__(self) -> Self:
        if self._path is not None:
            self._stream, self.stamp = _open(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is not None and self._stream is not None:
            self._stream.close()

    def __iter__(self) -> Iterator[Line]:
        return self._lines() if self._limit is None else self._first_lines(self._limit)

    def _first_lines(self, limit: int) -> Iterator[Line]:
        if limit <= 0:
            return
        for given, line in enumerate(self._lines(), 1):
            self._hash.update(line[1] + b"\n")
            yield line
            if given == limit:
                return

    def _lines(self) -> Iterator[Line]:
        number = 0
        try:
            for lines, plain in self._blocks():
                for line in lines:
                    number += 1
                    if plain and line and line[0] == _BRACE:
                        yield number, line, None
                    elif line is None:
                        yield number, b"", self._too_long(number)
                    elif not line or line.isspace():
                        self.blank += 1
                    elif len(line) > self._max_line:
                        yield number, b"", self._too_long(number)
                    else:
                        yield _looked_at(number, line)
        except BrokenStream as broken:
            yield number + 1, b"".join(self._held), LineFault(number + 1, broken.code, str(broken))

    def _blocks(self) -> Iterator[tuple[list[bytes | None], bool]]:
        """Lists of whole lines (None: one too long to keep), and whether all are free of what needs a look
        beside their first byte."""
        for piece in self._pieces():
            lines: list[bytes | None] = [*piece.split(b"\n")]
            first, last = lines[0], lines[-1]
            if len(lines) == 1:
                self._hold(piece)
                continue
            self._hold(first or b"")
            yield [self._release()], False
            self._hold(last or b"")
            yield lines[1:-1], len(piece) <= self._max_line and b"\r" not in piece
        if self._held_size:
            yield [self._release()], False

    def _hold(self, part: bytes) -> None:
        """Keep the beginning of a line whose end has not come, unless it is too long by now."""
        self._held_size += len(part)
        if self._held_size > self._max_line:
            self._held = []
        elif part:
            self._held.append(part)

    def _release(self) -> bytes | None:
        line = b"".join(self._held) if self._held_size <= self._max_line else None
        self._held, self._held_size = [], 0
        return line

    def _pieces(self) -> Iterator[bytes]:
        """The text of the file, unpacked, without its byte order mark."""
        head = _beginning(self._read, least=4)
        self.kind = kind_of(head)
        if self.kind == "plain":
            texts = iter(lambda: self._read(_READ), b"")
        else:
            texts = inflate(self.kind, head, lambda: self._read(_READ_COMPRESSED))
            head = _beginning(lambda _size: next(texts, b""), least=0)
        _refuse_wide_text(head[:_HEAD])
        yield head.removeprefix(_UTF8_MARK)
        yield from texts

    def _read(self, size: int) -> bytes:
        data: bytes
        if self._stream is None:
            raise ValueError("the reader is not open")
        try:
            # A pipe's bytes are taken as they come: a full read would wait for more than a --limit needs.
            data = getattr(self._stream, "read1", self._stream.read)(size)
        except OSError as error:
            raise BadInput(
                f"{self.name}: cannot be read further: {error.strerror}. Nothing was sent."
            ) from error
        self.bytes_read += len(data)
        if self._limit is None:
            self._hash.update(data)
        return data

    def _too_long(self, number: int) -> LineFault:
        return LineFault(
            number,
            "line_too_long",
            f"the line is longer than {self._max_line:,} bytes; raise --max-line if it is meant to be",
        )


def _looked_at(number: int, line: bytes) -> Line:
    if line.startswith(_UTF8_MARK):
        why = "the line begins with a byte order mark, as where files were joined; remove the bytes EF BB BF"
        return number, line, LineFault(number, "byte_order_mark", why)
    return number, line.removesuffix(b"\r"), None


def _beginning(read: Callable[[int], bytes], *, least: int) -> bytes:
    """The first bytes of a stream: 64, unless it ends before, or shows a line end after the `least`."""
    head = b""
    while len(head) < _HEAD and b"\n" not in head[least:]:
        data = read(_HEAD)
        if not data:
            break
        head += data
    return head


def _refuse_wide_text(head: bytes) -> None:
    """Raise BrokenStream where the first bytes are those of UTF-16 or UTF-32."""
    zeros = head.count(0) if head.strip(b"\0") else 0
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")) or zeros * 8 >= len(head) * 5 > 0:
        name = "UTF-32"
    elif head.startswith((b"\xff\xfe", b"\xfe\xff")) or zeros * 4 >= len(head) > 3:
        name = "UTF-16"
    else:
        return
    raise BrokenStream(
        "encoding", f"the file looks like {name}; convert it to UTF-8: iconv -f {name} -t UTF-8 IN > OUT"
    )


def _open(path: Path) -> tuple[BinaryIO, Stamp | None]:
    """The open file and its stamp (None for a pipe). Raises BadInput."""
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise BadInput(
                f"{path}: {_kind_of_file(mode)}, not a file. Name a JSONL file, or - for standard input."
            )
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file. Check the path; it was looked for in {Path.cwd()}.") from None
    except PermissionError:
        raise BadInput(f"{path}: no permission to read it. Change its mode, or run as its owner.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadInput(f"{path}: cannot be opened: {reason}.") from error
    status = os.fstat(file.fileno())
    return file, Stamp.of_stat(status) if stat.S_ISREG(status.st_mode) else None


def _kind_of_file(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"
