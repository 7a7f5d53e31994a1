"""Compressed input, known by its first bytes and never by its name: gzip, zstd, bzip2."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

OUT = 2**20
"""Bytes that one step gives out at most."""
BOMB_RATIO = 1000
BOMB_AFTER = 64 * 2**20

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
)
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\xfd7zX", "an xz file"),
    (b"PAR1", "a Parquet file"),
)


class BrokenStream(Exception):
    """The rest of the input cannot be read. `code` is that of the line fault this becomes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Member(Protocol):
    """One gzip member, zstd frame or bzip2 stream, as the standard decompressors offer it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _GzipMember:
    """zlib's decompressor, which keeps no input of its own, behind the interface of the other two."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._rest = b""
        self._full = False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not (self._rest or self._full)

    @property
    def unused_data(self) -> bytes:
        # Some writers pad a member with zeros, to the size of a tape's block.
        return self._inner.unused_data.lstrip(b"\0")

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        out = self._inner.decompress(self._rest + data, max_length)
        self._rest = self._inner.unconsumed_tail
        self._full = len(out) == max_length
        return out


def kind_of(head: bytes) -> str:
    """What the first bytes of a file are: "gzip", "zstd", "bzip2" or "plain".

    Raises BrokenStream for formats that are known and not read.
    """
    for magic, name in _FOREIGN:
        if head.startswith(magic):
            raise BrokenStream(
                "unsupported_file",
                f"this is {name}, not JSONL; unpack or convert it first (gzip and zstd are read)",
            )
    if head[1:4] == b"\x2a\x4d\x18" and head[:1] in b"PQRSTUVWXYZ[\\]^_":
        return "zstd"  # a skippable frame, which pzstd writes first
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), "plain")


def inflate(kind: str, head: bytes, read: Callable[[], bytes]) -> Iterator[bytes]:
    """The text of a compressed stream, all its members, in pieces of at most 1 MiB.

    `head` is what was read already; `read` gives more, and b"" at the end. Raises BrokenStream:
    truncated_file where the stream ends early or is damaged, bomb where it is far too small for its text.
    """
    open_member, damage = _decompressor(kind)
    member, data = open_member(), head
    consumed, produced = len(head), 0
    while True:
        try:
            out = member.decompress(data, OUT)
        except damage as error:
            why = f"the {kind} stream is damaged ({error}): lines before this may be wrong too; get it anew"
            raise BrokenStream("truncated_file", why) from None
        produced += len(out)
        if produced > BOMB_AFTER and produced > BOMB_RATIO * consumed:
            why = f"the {kind} stream unpacks to over {BOMB_RATIO} times its size; if you trust it, unpack it"
            raise BrokenStream("bomb", why)
        if out:
            yield out
        ended, data = member.eof, b""
        if ended:
            data = member.unused_data
            member = open_member()
        if not data and member.needs_input:
            data = _after_padding(kind, read) if ended else read()
            consumed += len(data)
            if not data and ended:
                return
            if not data:
                why = f"the {kind} stream ends too early: the file was cut short; get it anew"
                raise BrokenStream("truncated_file", why)


def _after_padding(kind: str, read: Callable[[], bytes]) -> bytes:
    while data := read():
        if kind != "gzip" or (data := data.lstrip(b"\0")):
            return data
    return b""


def _decompressor(kind: str) -> tuple[Callable[[], _Member], tuple[type[Exception], ...]]:
    """What opens a member of this kind, and what it raises on damaged data."""
    if kind == "gzip":
        return _GzipMember, (zlib.error,)
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, (OSError, ValueError)
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd.ZstdDecompressor, (zstd.ZstdError,)
