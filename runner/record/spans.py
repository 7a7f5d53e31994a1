"""The members of a record as they were written: the bytes of their keys and values, never rewritten."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from runner.record.fault import RecordFault

Member: TypeAlias = tuple[bytes, bytes]
"""A raw key, with its quotes, and the raw text of its value."""

_SPACE = b" \t\r\n"
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_BRACKET = re.compile(rb'["\[\]{}]')
_SCALAR_END = re.compile(rb"[ \t\r\n,\]}]")


def members(line: bytes) -> list[Member]:
    """The members of a record as they were written, in order, repeated keys included.

    `line` must be one that `parse` or `parse_request` accepted: nothing is checked a second time.
    """
    return [(key, value) for _, key, value in _named_members(line)]


def key_name(raw_key: bytes) -> str:
    """The text of a raw key, its escapes resolved."""
    if b"\\" in raw_key:
        return str(json.loads(raw_key))
    return raw_key[1:-1].decode()


def keep_fields(line: bytes, keep: frozenset[str] | None, extra: bytes) -> bytes:
    """The record with only the members named in `keep` (None: all), and `extra` after them.

    Kept members have their original bytes. `extra` is JSON text of one member or more, without braces, such
    as b'"result":{...}'. `line` must be one that `parse` accepted. The result holds no line break.
    """
    if keep is None:
        # A lone carriage return can only be white space here, and many readers take it for a line's end.
        text = line.replace(b"\r", b" ").strip(_SPACE)[:-1].rstrip(_SPACE)
        return text + (b"" if text.endswith(b"{") else b",") + extra + b"}"
    kept = [
        key + b":" + (value.replace(b"\r", b" ") if b"\r" in value else value)
        for name, key, value in _named_members(line)
        if name in keep
    ]
    kept.append(extra)
    return b"{" + b",".join(kept) + b"}"


def has_field(record: Mapping[str, object] | bytes, name: str) -> bool:
    """Whether a record, parsed or as a line, has a member of this name."""
    if isinstance(record, bytes):
        return any(found == name for found, _, _ in _named_members(record))
    return name in record


def _named_members(line: bytes) -> list[tuple[str, bytes, bytes]]:
    """Each member's name, raw key and raw value."""
    # A decoder that is much faster than the scan loses repeated keys, escapes in keys and white space.
    # It lost nothing if its members, joined again, give the line.
    try:
        found = [
            (name, b'"' + name.encode() + b'"', bytes(raw)) for name, raw in _FIELDS.decode(line).items()
        ]
    except (msgspec.DecodeError, ValueError, RecursionError):
        found = []
    if found:
        comma, colon = (b", ", b": ") if line[len(found[0][1]) + 2] in _SPACE else (b",", b":")
        if b"{" + comma.join([key + colon + value for _, key, value in found]) + b"}" == line:
            return found
    return [(key_name(key), key, value) for key, value in _scan(line)]


def _scan(line: bytes) -> list[Member]:
    found: list[Member] = []
    try:
        pos = line.index(b"{") + 1
        while (start := line.find(b'"', pos)) >= 0:
            end = _string_end(line, start)
            key = line[start:end]
            start = _skip_space(line, line.index(b":", end) + 1)
            end = _value_end(line, start)
            found.append((key, line[start:end]))
            pos = _skip_space(line, end)
            if line[pos] != 0x2C:
                break
            pos += 1
    except (ValueError, IndexError):
        raise RecordFault("invalid_json", "the line is not a JSON object") from None
    return found


def _skip_space(line: bytes, pos: int) -> int:
    while line[pos] in _SPACE:
        pos += 1
    return pos


def _string_end(line: bytes, start: int) -> int:
    """Where the string that begins at `start` ends: the index after its closing quote."""
    quote = line.index(b'"', start + 1)
    while line[quote - 1] == 0x5C:
        first = quote - 1
        while line[first - 1] == 0x5C:
            first -= 1
        if (quote - first) % 2 == 0:
            break
        quote = line.index(b'"', quote + 1)
    return quote + 1


def _value_end(line: bytes, start: int) -> int:
    first = line[start]
    if first == 0x22:
        return _string_end(line, start)
    if first not in b"{[":
        scalar = _SCALAR_END.search(line, start)
        return scalar.start() if scalar else len(line)
    depth, pos = 1, start + 1
    while depth:
        bracket = _BRACKET.search(line, pos)
        if bracket is None:
            raise ValueError("unclosed")
        pos = bracket.end()
        mark = line[pos - 1]
        if mark == 0x22:
            pos = _string_end(line, pos - 1)
        else:
            depth += 1 if mark in b"{[" else -1
    return pos
